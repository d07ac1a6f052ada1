"""What reading and writing video files share: containers, streams and the times of packets."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av import FFmpegError
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container of every suffix that is written."""

IS_MOV = {"mp4", "mov"}
"""The containers that come from QuickTime."""

ALPHA_MODE = "alpha_mode"
"""Metadata of a stream in Matroska whose packets have alpha beside them; in any case of letters."""


class VideoError(ValueError):
    """Raised if a video cannot be read or written; the message is one sentence.

    Examples:
        >>> from fastfcs.video.source import Video
        >>> Video("gone.mp4")
        Traceback (most recent call last):
        fastfcs.video.container.VideoError: gone.mp4 cannot be read: No such file or directory
    """


def container_of(target: str | Path) -> str:
    """Tell the container of an output.

    Args:
        target: the output.

    Returns:
        FFmpeg's name of the container.

    Raises:
        VideoError: the suffix is none of `CONTAINERS`.

    Examples:
        >>> from fastfcs.video.container import container_of
        >>> container_of("clips/out.MKV")
        'matroska'
    """
    suffix = Path(target).suffix.lower()
    if suffix not in CONTAINERS:
        raise VideoError(f"output must end in {', '.join(CONTAINERS)} for a video, got {target}")
    return CONTAINERS[suffix]


def open_video(path: str | Path) -> InputContainer:
    """Open a file for reading.

    Args:
        path: the file.

    Returns:
        The container.

    Raises:
        VideoError: the file cannot be read.

    Examples:
        >>> from fastfcs.video.container import open_video
        >>> open_video("gone.mp4")
        Traceback (most recent call last):
        fastfcs.video.container.VideoError: gone.mp4 cannot be read: No such file or directory
    """
    try:
        # Of a relative path, what is before a colon would be a protocol.
        return av.open(os.path.abspath(path), metadata_errors="replace")
    except FFmpegError as error:
        raise VideoError(f"{path} cannot be read: {reason(error)}") from error


def main_stream(container: InputContainer, path: str | Path) -> VideoStream:
    """Find the first stream of moving pictures; covers of albums are not.

    Args:
        container: the file.
        path: its path, for errors.

    Returns:
        The stream.

    Raises:
        VideoError: there is none, or none that FFmpeg decodes.

    Examples:
        >>> from io import BytesIO
        >>> import av
        >>> from PIL import Image
        >>> from fastfcs.video.container import main_stream
        >>> stream = BytesIO()
        >>> Image.new("RGB", (24, 16)).save(stream, "PNG")
        >>> _ = stream.seek(0)
        >>> main_stream(av.open(stream), "a.png")
        Traceback (most recent call last):
        fastfcs.video.container.VideoError: a.png must be a video, got a picture, which ...
    """
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise VideoError(f"{path} must be a video, got a picture, which fastfcs stylize restyles")
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if not streams:
        kinds: list[str] = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise VideoError(f"{path} must hold video, got {' and '.join(kinds)}")
    if streams[0].codec_context is None:
        raise VideoError(f"{path} must hold video that FFmpeg decodes, got an unknown codec")
    return streams[0]


def is_cover(stream: Stream) -> bool:
    """Tell whether a stream is a single picture, such as the cover of an album.

    Args:
        stream: of a file.

    Returns:
        Whether it is.

    Examples:
        >>> import av
        >>> from io import BytesIO
        >>> from fastfcs.video.container import is_cover
        >>> with av.open(BytesIO(), "w", "mp4") as output:
        ...     is_cover(output.add_stream("libx264"))
        False
    """
    return bool(stream.disposition & stream.disposition.attached_pic)


def time_of(packet: Packet[Any]) -> Fraction:
    """Tell when a packet is decoded.

    Args:
        packet: of any stream.

    Returns:
        The time in seconds; that of presentation where the other is not known.

    Examples:
        >>> from fractions import Fraction
        >>> from av import Packet
        >>> from fastfcs.video.container import time_of
        >>> packet = Packet(b"")
        >>> packet.pts, packet.time_base = 3, Fraction(1, 2)
        >>> time_of(packet)
        Fraction(3, 2)
    """
    time = packet.pts if packet.dts is None else packet.dts
    return Fraction(0) if time is None or packet.time_base is None else time * packet.time_base


def end_of(packet: Packet[Any]) -> Fraction:
    """Tell when the presentation of a packet ends.

    Args:
        packet: of any stream.

    Returns:
        The time in seconds, or 0 where it is not known.

    Examples:
        >>> from av import Packet
        >>> from fastfcs.video.container import end_of
        >>> end_of(Packet(b""))
        Fraction(0, 1)
    """
    if packet.pts is None or packet.time_base is None:
        return Fraction(0)
    return (packet.pts + (packet.duration or 0)) * packet.time_base


def reason(error: Exception) -> str:
    """Tell what went wrong, without FFmpeg's code of it.

    Args:
        error: of FFmpeg, or another.

    Returns:
        A clause.

    Examples:
        >>> from fastfcs.video.container import reason
        >>> reason(ValueError("no such codec"))
        'no such codec'
    """
    return getattr(error, "strerror", None) or str(error)
