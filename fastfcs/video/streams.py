"""The other streams of a video: audio, subtitles, covers, attachments, chapters."""

from __future__ import annotations

import heapq
import os
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
from av import FFmpegError
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from ..files import atomic
from .container import (
    ALPHA_MODE,
    CONTAINERS,
    IS_MOV,
    VideoError,
    container_of,
    is_cover,
    main_stream,
    open_video,
    reason,
    time_of,
)
from .encoding import Encoding
from .partial import SETTINGS, add_stream, packets_of
from .source import Video

_INDEX_FIRST = {"movflags": "faststart"}
_METADATA = {"language", "title", "filename", "mimetype"}  # of streams; the latter of attachments
_OWN_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_NAMES = {"audio": "audio", "subtitle": "subtitles", "video": "second video"}
_COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def check_streams(video: Video, target: str | Path, encoding: Encoding) -> list[str]:
    """Check that an output can hold the result and the other streams of a video.

    Args:
        video: the source.
        target: the output.
        encoding: of the result.

    Returns:
        Notes on streams that are left out.

    Raises:
        VideoError: it cannot hold the result, the audio or the subtitles.

    Examples:
        >>> from fastfcs.video.streams import check_streams
        >>> check_streams(video, "out.mkv", encoding)  # doctest: +SKIP
        []
    """
    container = container_of(target)
    try:
        with av.open(BytesIO(), "w", container) as trial:
            add_stream(trial, video, encoding)
            trial.start_encoding()
    except (FFmpegError, ValueError) as error:
        raise VideoError(
            f"{target} cannot be written by {encoding.codec}: {reason(error)}"
        ) from error
    notes = []
    with open_video(video.path) as source:
        has_chapters = bool(source.chapters())
        for stream in source.streams:
            if stream.index == video.index or _is_held(stream, container):
                continue
            if is_cover(stream):
                notes.append(f"the cover is left out: {target} cannot hold it")
            elif stream.type in _NAMES:
                able = [suffix for suffix, each in CONTAINERS.items() if _is_held(stream, each)]
                codec = stream.codec_context.name if stream.codec_context else "unknown"
                raise VideoError(
                    f"{target} cannot hold the {_NAMES[stream.type]} ({codec}) of {video.path}"
                    + (f"; {' and '.join(able)} can" if able else "")
                )
            elif not (has_chapters and _is_chapters(stream)):
                notes.append(f"stream {stream.index}, {stream.type}, is not copied")
    return notes


def _is_chapters(stream: Stream) -> bool:
    """Whether it is the text of QuickTime's chapters, which are copied by themselves."""
    return stream.type == "data" and stream.metadata.get("handler_name") == "SubtitleHandler"


def _is_held(stream: Stream, container: str) -> bool:
    """Whether a container takes a stream, which its header shows."""
    if stream.type == "data":
        return False
    if is_cover(stream):
        return container in ("mp4", "matroska") and stream.codec_context.name in _COVERS
    try:
        with av.open(BytesIO(), "w", container) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def assemble(
    partial: str | Path, video: Video, target: str | Path, settings: str | None = None
) -> None:
    """Put the restyled video and the other streams of its source together, atomically.

    Args:
        partial: the encoded video.
        video: the source.
        target: the output.
        settings: of an encoding that is not at its end, see `Encoding`: the other streams end with
            the video, and the output can be resumed. None copies them whole.

    Raises:
        VideoError: the output cannot be written.

    Examples:
        >>> from fastfcs.video.streams import assemble
        >>> assemble("out.partial.mp4", video, "out.mp4")  # doctest: +SKIP
    """
    container = container_of(target)
    options = _INDEX_FIRST if container in IS_MOV else {}
    try:
        with (
            atomic(target) as path,
            open_video(video.path) as source,
            open_video(partial) as restyled,
            av.open(os.path.abspath(path), "w", container, container_options=options) as output,
        ):
            output.metadata.update(
                (k, v) for k, v in source.metadata.items() if k.lower() not in _OWN_METADATA
            )
            last: Fraction | float = float("inf")
            if settings is not None:
                output.metadata[SETTINGS] = settings
                last = max(map(time_of, packets_of(partial)))
            new: dict[int, Stream] = {}
            for stream in source.streams:
                if stream.index == video.index:
                    new[stream.index] = _add_result(output, restyled, partial, video)
                elif not _is_held(stream, container):
                    continue
                elif is_cover(stream) and container == "matroska":
                    _attach(output, stream, video)
                    continue
                else:
                    new[stream.index] = output.add_stream_from_template(stream, opaque=True)
                new[stream.index].metadata.update(
                    (k, v) for k, v in stream.metadata.items() if k.lower() in _METADATA
                )
                new[stream.index].disposition = stream.disposition
            if source.chapters():
                output.set_chapters(source.chapters())
            main = new[video.index]
            others = [source.streams[index] for index in new if index != video.index]
            copied = source.demux(*others) if others else ()
            packets = heapq.merge(
                ((time_of(p), p, main) for p in packets_of(partial)),
                ((time_of(p), p, new[p.stream.index]) for p in copied if p.size),
                key=lambda each: each[0],
            )
            for time, packet, to in packets:
                # Only files of QuickTime have edit lists that hide packets.
                is_hidden = packet.is_discard and container not in IS_MOV
                if to is main or not (is_hidden or time > last):
                    packet.stream = to
                    output.mux(packet)
    except (FFmpegError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{target} cannot be written: {reason(error)}") from error


def _add_result(
    output: OutputContainer, restyled: InputContainer, partial: str | Path, video: Video
) -> Stream:
    template = main_stream(restyled, partial)
    stream = output.add_stream_from_template(template, opaque=True)
    stream.codec_context.framerate = video.rate
    if output.format.name in IS_MOV:
        stream.codec_context.codec_tag = template.codec_context.codec_tag
    if ALPHA_MODE in map(str.lower, template.metadata):
        stream.metadata[ALPHA_MODE] = "1"
    return stream


def _attach(output: OutputContainer, cover: Stream, video: Video) -> None:
    """Attach a cover, as Matroska has it."""
    name, kind = _COVERS[cover.codec_context.name]
    with open_video(video.path) as source:
        packets = source.demux(source.streams[cover.index])
        picture: Packet[Any] | None = next((each for each in packets if each.size), None)
        if picture is not None:
            output.add_attachment(name, kind, bytes(picture))
