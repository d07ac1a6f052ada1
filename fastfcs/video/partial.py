"""Results that are not whole yet.

They are encoded into a partial file that holds video alone and can be played at any time, even if
the program is killed: ``out.partial.mp4`` beside ``out.mp4``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import islice
from math import floor
from pathlib import Path
from typing import Any

import av
from av import FFmpegError, VideoFrame
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .container import IS_MOV, VideoError, container_of, main_stream, open_video, reason, time_of
from .encoding import Encoding
from .source import Video

# A partial file is playable up to its last key frame, whenever the program ends.
_FRAGMENTED = {"flush_packets": "1", "movflags": "frag_keyframe+delay_moov"}
_CLUSTERED = {"flush_packets": "1", "cluster_time_limit": "500"}  # milliseconds
# Containers store these codecs in another form than encoders give them.
_TO_ENCODED = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_KEY_SECONDS = 2  # between key frames, at most: what a killed run may lose
SETTINGS = "comment"
"""The field of a partial file that holds `Encoding.settings`."""


def partial_path(target: str | Path) -> Path:
    """Tell where a result is kept until it is whole.

    Args:
        target: the output.

    Returns:
        The path of the partial file, beside it.

    Examples:
        >>> from fastfcs.video.partial import partial_path
        >>> partial_path("clips/out.mp4").name
        'out.partial.mp4'
    """
    path = Path(target)
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def add_stream(container: OutputContainer, video: Video, encoding: Encoding) -> VideoStream:
    """Add the stream of a result to a container.

    Args:
        container: the output.
        video: the source.
        encoding: how to encode.

    Returns:
        The stream.

    Raises:
        ValueError, FFmpegError: the container does not take it.

    Examples:
        >>> from fastfcs.video.partial import add_stream
        >>> add_stream(output, video, encoding)  # doctest: +SKIP
        <av.VideoStream #0 libx264, yuv420p 96x64>
    """
    stream = container.add_stream(encoding.codec, rate=video.rate)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = video.kind.width, video.kind.height
    stream.pix_fmt = encoding.format
    stream.time_base = stream.codec_context.time_base = video.time_base
    stream.codec_context.options = encoding.options
    stream.codec_context.gop_size = max(1, round(_KEY_SECONDS * video.rate))
    stream.codec_context.thread_type = "AUTO"
    if video.aspect:
        stream.codec_context.sample_aspect_ratio = video.aspect
    for name, value in video.kind.tags.items():
        setattr(stream.codec_context, name, value)
    if encoding.codec == "libx265" and container.format.name in IS_MOV:
        stream.codec_context.codec_tag = "hvc1"  # Apple's players know no other
    if video.kind.matrix_of_display:
        stream.set_display_matrix(video.kind.matrix_of_display)
    return stream


class Encoder:
    """Encodes frames to a partial file.

    Args:
        path: the partial file, from `partial_path`.
        video: the source.
        encoding: how to encode.
        resume: whether to continue an existing file of the same settings.

    Attributes:
        done: number of frames that the file has had already.

    Raises:
        VideoError: the encoder does not take such a video, or the existing file has other settings.

    Examples:
        >>> from fastfcs.video.partial import Encoder
        >>> with Encoder("out.partial.mp4", video, encoding) as encoder:  # doctest: +SKIP
        ...     for frame in frames:
        ...         encoder.write(frame)
    """

    def __init__(
        self, path: str | Path, video: Video, encoding: Encoding, resume: bool = False
    ) -> None:
        self.done, self._path, self._time_base = 0, path, video.time_base
        self._durations: dict[int, int] = {}
        self._last_dts: int | None = None
        self._stack = ExitStack()
        new = Path(path)
        kept = _kept(new, encoding.settings) if resume and new.exists() else 0
        if kept:
            new = new.with_name(f".{new.name}")
        format = container_of(new)
        try:
            self._container: OutputContainer = self._stack.enter_context(
                av.open(
                    os.path.abspath(new),
                    "w",
                    format,
                    container_options=_FRAGMENTED if format in IS_MOV else _CLUSTERED,
                )
            )
            self._container.metadata[SETTINGS] = encoding.settings
            self._stream = add_stream(self._container, video, encoding)
            self._container.start_encoding()
            if kept:
                self._copy(path, kept, video.start)
                new.replace(path)
        except (FFmpegError, ValueError) as error:
            self._stack.close()
            new.unlink(missing_ok=True)
            raise VideoError(
                f"{path} cannot be written by {encoding.codec}: {reason(error)}"
            ) from error

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            with self._stack:
                self._mux(self._stream.encode(None))
        except FFmpegError as failed:
            if kind is None:
                raise VideoError(f"{self._path} cannot be written: {reason(failed)}") from failed

    def write(self, frame: VideoFrame) -> None:
        """Encode a frame.

        Args:
            frame: in the encoding's pixel format, with its time and duration in the source's time
                base; a duration of 0 is not known.

        Raises:
            VideoError: the file cannot be written.
        """
        if frame.pts is not None and frame.duration:
            self._durations[frame.pts] = frame.duration
        try:
            self._mux(self._stream.encode(frame))
        except FFmpegError as error:
            raise VideoError(f"{self._path} cannot be written: {reason(error)}") from error

    def _mux(self, packets: Sequence[Packet[Any]]) -> None:
        for packet in packets:
            if packet.pts is not None and packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            if self._last_dts is not None and packet.dts is not None:
                packet.dts = max(packet.dts, self._last_dts + 1)
            self._last_dts = packet.dts
            self._container.mux(packet)

    def _copy(self, path: str | Path, count: int, start: Fraction) -> None:
        """Copy packets of another partial file, which may have moved all times."""
        with open_video(path) as container:
            stream = main_stream(container, path)
            filter = _TO_ENCODED.get(stream.codec_context.name)
            convert = None if filter is None else BitStreamFilterContext(filter, stream)
        shift: int | None = None
        for packet in islice(packets_of(path), count):
            pts, dts = packet.pts or 0, packet.dts or 0
            if shift is None:  # the first packet is the first frame
                shift = pts - round(start / (packet.time_base or 1))
            packet.pts, packet.dts = pts - shift, dts - shift
            # Decoding times increase from these to the encoder's own.
            self._last_dts = floor(time_of(packet) / self._time_base)
            for each in [packet] if convert is None else convert.filter(packet):
                each.stream = self._stream
                self._container.mux(each)
            self.done += 1


def packets_of(path: str | Path) -> Iterator[Packet[Any]]:
    """Read the packets of an encoded video, with decoding times, which Matroska does not store.

    Args:
        path: a file of `Encoder`, whose end may be missing.

    Yields:
        The packets of the video.

    Examples:
        >>> from fastfcs.video.partial import packets_of
        >>> len(list(packets_of("out.partial.mp4")))  # doctest: +SKIP
        24
    """
    with suppress(FFmpegError), open_video(path) as container:  # the end may be truncated
        stream = main_stream(container, path)
        times: list[int] = [packet.pts or 0 for packet in container.demux(stream) if packet.size]
    ordered = sorted(times)
    rank = {time: index for index, time in enumerate(ordered)}
    delay = max((index - rank[time] for index, time in enumerate(times)), default=0)
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 1
    with open_video(path) as container:
        stream = main_stream(container, path)
        for index, packet in enumerate(container.demux(stream)):
            if index == len(times):
                return
            early = index - delay
            packet.dts = ordered[early] if early >= 0 else ordered[0] + early * step
            yield packet


def _kept(path: Path, settings: str) -> int:
    """The number of frames in a partial file that can be kept.

    A file that was ended in order says how many it has. After a kill some of the last group may be
    lost; groups are closed, so as many packets before it hold as many frames.
    """
    try:
        with open_video(path) as container:
            marks = list(container.metadata.values())
    except VideoError:
        return 0  # killed before the first group was written
    mark = next((each for each in marks if each.startswith(settings)), None)
    if mark is None:
        raise VideoError(
            f"{path} must come from the same video and settings to be resumed: --force starts again"
        )
    try:
        if mark != settings:
            return int(mark.removeprefix(settings))
        keys = (index for index, packet in enumerate(packets_of(path)) if packet.is_keyframe)
        return max(keys, default=0)
    except (FFmpegError, ValueError):
        return 0
