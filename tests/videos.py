"""Small video files, written with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 25
SOUND = 22_050  # samples per second


def frames(count: int, size: tuple[int, int] = (64, 96)) -> list[NDArray[np.uint8]]:
    """Something that moves, (H, W, 3) each."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(x / 7), np.cos(y / 5), np.sin((x + y) / 11))
    picture = np.stack([128 + 90 * wave for wave in waves], -1).astype(np.uint8)
    return [np.roll(picture, 2 * index, 1) for index in range(count)]


def write_video(
    path: Path,
    pictures: Sequence[NDArray[Any]],
    *,
    codec: str = "libx264",
    format: str = "yuv420p",
    times: Iterable[int] | None = None,
    time_base: Fraction = Fraction(1, RATE),
    sound: bool = False,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    **tags: int,
) -> Path:
    """Encode RGB or RGBA pictures of 8 or 16 bits."""
    height, width, channels = pictures[0].shape
    deep = pictures[0].dtype == np.uint16
    packed = {(3, 0): "rgb24", (4, 0): "rgba", (3, 1): "rgb48le", (4, 1): "rgba64le"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, format
        stream.codec_context.time_base = time_base
        stream.codec_context.options = {"crf": "10"} if options is None else options
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        container.metadata.update(metadata or {})
        audio: Any = container.add_stream("aac", rate=SOUND, layout="mono") if sound else None
        for index, time in zip(range(len(pictures)), times or range(len(pictures)), strict=False):
            frame = av.VideoFrame.from_ndarray(pictures[index], format=packed[channels, deep])
            frame = frame.reformat(
                format=format,
                dst_colorspace=tags.get("colorspace", 1),
                dst_color_range=tags.get("color_range", 1),
            )
            for name, value in tags.items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            tone = np.sin(np.arange(SOUND * len(pictures) // RATE) / 8).astype(np.float32)
            for start in range(0, len(tone), 1024):
                samples = av.AudioFrame.from_ndarray(
                    tone[None, start : start + 1024], "fltp", "mono"
                )
                samples.sample_rate, samples.pts = SOUND, start
                container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return path


def read_video(path: Path, format: str = "rgb24") -> list[NDArray[Any]]:
    """All frames of a file."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=format) for frame in container.decode(video=0)]


def facts(path: Path) -> dict[str, Any]:
    """What a result shares with its source."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        codec = stream.codec_context
        decoded = list(container.decode(stream))
        return {
            "times": [frame.pts * frame.time_base for frame in decoded],
            "size": (stream.width, stream.height),
            "duration": container.duration,
            "rotation": decoded[0].rotation,
            "tags": (codec.color_range, codec.color_primaries, codec.color_trc, codec.colorspace),
            "streams": [each.type for each in container.streams],
            "languages": [each.metadata.get("language", "und") for each in container.streams],
            "title": container.metadata.get("title"),
            "chapters": [(c["start"], c["end"], c["metadata"]) for c in container.chapters()],
            "covers": [bool(each.disposition & 1024) for each in container.streams].count(True),
            "others": others(path),
        }


def others(path: Path) -> list[tuple[str, bytes]]:
    """The packets of streams that are not video."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux() if p.size and p.stream.type != "video"]
        return sorted((packet.stream.type, bytes(packet)) for packet in packets)
