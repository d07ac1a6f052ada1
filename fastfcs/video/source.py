"""Reading the frames of a video file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
from av import CodecContext, FFmpegError, VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream

from .container import ALPHA_MODE, VideoError, end_of, main_stream, open_video, reason
from .frames import TAGS, Kind

_MOV = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's name of the demuxer
_KNOW_LENGTH = {_MOV, "matroska,webm", "avi"}  # containers that store their length
_TOLERANCE = 1  # second
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own ones ignore it


class Video:
    """A video file to be read.

    Args:
        path: the file, of any container and codec that FFmpeg decodes.

    Attributes:
        kind: how its frames are to be understood.
        rate: frames per second, on average.
        start: time of the first frame, in seconds.
        count: about how many frames there are, or None.

    Raises:
        VideoError: the file cannot be read, or holds no video.

    Examples:
        >>> from fastfcs.video.source import Video
        >>> [frame.width for frame in Video(example).frames()]  # doctest: +SKIP
        [64, 64]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with open_video(self.path) as container:
            stream = main_stream(container, self.path)
            self.index = stream.index
            self.rate = _rate(stream)
            self.time_base = stream.time_base or 1 / self.rate
            self.aspect = stream.sample_aspect_ratio
            seconds = None if container.duration is None else container.duration / av.time_base
            self._length = seconds if container.format.name in _KNOW_LENGTH else None
            self._packets = stream.frames if container.format.name == _MOV else 0
            self.count = stream.frames or (seconds and round(seconds * float(self.rate)))
            try:
                first = next(self._decoded(container, stream), None)
            except FFmpegError as error:
                raise VideoError(f"{self.path} cannot be read: {reason(error)}") from error
            is_gif = stream.codec_context.name == "gif"  # its decoder always adds alpha
        if first is None:
            raise VideoError(f"{self.path} must hold at least one frame, got none")
        self.start = (first.pts or 0) * self.time_base
        try:
            self.kind = Kind.of(first)
        except ValueError as error:
            raise VideoError(f"{self.path}: {error}") from error
        if (is_gif or first.format.has_palette) and not self._is_transparent():
            self.kind = replace(self.kind, has_alpha=False)

    def frames(self) -> Iterator[VideoFrame]:
        """Decode the frames in the order of their times, from the first.

        Yields:
            Frames of one size, with times.

        Raises:
            VideoError: the file is damaged or ends early, or the size changes.
        """
        # Decoders pass durations on in the order of packets, which is not that of frames.
        for frame, following in pairwise(chain(self._checked(), [None])):
            assert frame is not None
            if following is not None:
                frame.duration = max(0, _ticks(following) - _ticks(frame))
            yield frame

    def _checked(self) -> Iterator[VideoFrame]:
        count = 0
        size = self.kind.width, self.kind.height
        with open_video(self.path) as container:
            stream = main_stream(container, self.path)
            try:
                for frame in self._decoded(container, stream):
                    if (frame.width, frame.height) != size:
                        raise VideoError(
                            f"{self.path} must have frames of one size, got {size[0]} x {size[1]} "
                            f"and, from frame {count}, {frame.width} x {frame.height}"
                        )
                    if frame.is_corrupt:
                        raise VideoError(f"{self.path} is damaged after {count} frames")
                    if frame.pts is None:
                        frame.pts = round(count / self.rate / self.time_base)
                        frame.time_base = self.time_base
                    count += 1
                    yield frame
            except FFmpegError as error:
                raise VideoError(
                    f"{self.path} is damaged after {count} frames: {reason(error)}"
                ) from error

    def _is_transparent(self) -> bool:
        return any((frame.to_ndarray(format="rgba")[..., 3] < 255).any() for frame in self.frames())

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        codec: Any = stream.codec_context
        with_alpha = _ALPHA_DECODERS.get(codec.name)
        if with_alpha and ALPHA_MODE in map(str.lower, stream.metadata):
            codec = CodecContext.create(with_alpha, "r")
            for name in TAGS:
                setattr(codec, name, getattr(stream.codec_context, name))
        codec.thread_type = "AUTO"
        packets, end = 0, Fraction(0)  # of this stream, and of all
        for packet in container.demux():
            if packet.size:
                end = max(end, end_of(packet))
            if packet.stream.index == stream.index:
                packets += packet.size > 0
                for frame in codec.decode(packet if packet.size else None):
                    assert isinstance(frame, VideoFrame)
                    if frame.time_base is None:  # of the last ones
                        frame.time_base = self.time_base
                    yield frame
        if packets < self._packets:
            raise VideoError(
                f"{self.path} is damaged: it holds {packets} of {self._packets} frames"
            )
        end -= Fraction(container.start_time or 0, av.time_base)
        is_short = self._length is not None and end < self._length - _TOLERANCE
        if is_short or _missing_bytes(self.path) > 0:
            of = f" of {self._length:.1f}" if self._length is not None else ""
            raise VideoError(f"{self.path} is damaged: it ends after {float(end):.1f}{of} seconds")


def _rate(stream: VideoStream) -> Fraction:
    """Frames per second; an average of variable times may be that of the clock."""
    rates = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate]
    return min(rates, default=Fraction(25))


def _missing_bytes(path: str) -> int:
    """How many bytes of a Matroska file are missing at its end."""
    with open(path, "rb") as file:
        for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # the header, then all the rest
            if file.read(4) != name:
                return 0
            first = file.read(1)[0]
            count = 8 - first.bit_length()  # of bytes that follow
            bits = 7 * (count + 1)
            size = int.from_bytes(bytes([first]) + file.read(count), "big") & ((1 << bits) - 1)
            if size == (1 << bits) - 1:  # not known
                return 0
            file.seek(size, os.SEEK_CUR)
        return file.tell() - os.path.getsize(path)


def _ticks(frame: VideoFrame) -> int:
    return frame.pts or 0
