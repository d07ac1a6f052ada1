"""Video files: reading frames, encoding results, and putting the streams together again.

Results are encoded into a partial file that holds video alone and can be played at any time, even
if the program is killed: ``out.partial.mp4`` beside ``out.mp4``. At the end it is copied, with the
source's other streams, to the output, which is therefore whole or absent.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, pairwise
from math import floor
from pathlib import Path
from typing import Any

import av
from av import CodecContext, FFmpegError, VideoFrame
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ..files import atomic
from .frames import Kind

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container of every suffix that is written."""

# A partial file is playable up to its last key frame, whenever the program ends.
_FRAGMENTED = {"flush_packets": "1", "movflags": "frag_keyframe+delay_moov"}
_CLUSTERED = {"flush_packets": "1", "cluster_time_limit": "500"}  # milliseconds
_INDEX_FIRST = {"movflags": "faststart"}
_IS_MOV = {"mp4", "mov"}
# Options of the encoders that take a constant quality, with the default one of each.
_QUALITY = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libaom-av1": 24, "libsvtav1": 24}
_OPTIONS = {"libvpx-vp9": {"b": "0", "cpu-used": "4", "row-mt": "1", "deadline": "good"}}
_ALPHA_CHROMA = {"libvpx-vp9": "420"}  # the only one that it takes with alpha
# Containers store these codecs in another form than encoders give them.
_TO_ENCODED = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_WHOLE_PAIRS = {"libx264", "libx265"}  # their frames consist of whole chroma samples
_ALPHA_MODE = "alpha_mode"  # metadata of a stream in Matroska whose packets have alpha beside them
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own ones ignore it
_KEY_SECONDS = 2  # between key frames, at most: what a killed run may lose
# Containers that say how long they are, and by how many seconds and what share that may be wrong.
_KNOW_LENGTH = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}
_TOLERANCE, _SHARE = 1.0, 0.01
_SETTINGS = "comment"  # the field of the partial file that holds `Encoding.settings`


class VideoError(ValueError):
    """Raised if a video cannot be read or written; the message is one sentence.

    Examples:
        >>> from fastfcs.video.file import Video
        >>> Video("gone.mp4")
        Traceback (most recent call last):
        fastfcs.video.file.VideoError: gone.mp4 cannot be read: No such file or directory
    """


class Video:
    """A video file to be read.

    Args:
        path: the file, of any container and codec that FFmpeg decodes.

    Attributes:
        kind: how its frames are to be understood.
        rate: frames per second, on average.
        count: about how many frames there are, or None.

    Raises:
        VideoError: the file cannot be read, or holds no video.

    Examples:
        >>> from fastfcs.video.file import Video
        >>> [frame.width for frame in Video(example).frames()]  # doctest: +SKIP
        [64, 64]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with self._opened() as container:
            stream = _main_stream(container, self.path)
            self.index, codec = stream.index, stream.codec_context.name
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.time_base = stream.time_base or 1 / self.rate
            self.aspect = stream.sample_aspect_ratio
            seconds = None if container.duration is None else container.duration / av.time_base
            self._length = seconds if container.format.name in _KNOW_LENGTH else None
            self.count = stream.frames or (seconds and round(seconds * float(self.rate)))
            try:
                first = next(self._decoded(container, stream), None)
            except FFmpegError as error:
                raise self._unreadable(error) from error
        if first is None:
            raise VideoError(f"{self.path} must hold at least one frame, got none")
        self.kind = Kind.of(first)
        if codec == "gif" and not self._is_transparent():  # its decoder always adds alpha
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
        with self._opened() as container:
            stream = _main_stream(container, self.path)
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
                    f"{self.path} is damaged after {count} frames: {error.strerror}"
                ) from error

    def _is_transparent(self) -> bool:
        return any((frame.to_ndarray(format="rgba")[..., 3] < 255).any() for frame in self.frames())

    def _opened(self) -> InputContainer:
        try:
            return av.open(self.path, metadata_errors="replace")
        except FFmpegError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: FFmpegError) -> VideoError:
        return VideoError(f"{self.path} cannot be read: {error.strerror}")

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        codec: Any = stream.codec_context
        with_alpha = _ALPHA_DECODERS.get(codec.name)
        if with_alpha and _ALPHA_MODE in map(str.lower, stream.metadata):
            codec = CodecContext.create(with_alpha, "r")
        codec.thread_type = "AUTO"
        end = Fraction(0)
        for packet in container.demux():
            if packet.size:
                length = (packet.duration or 0) * (packet.time_base or 0)
                end = max(end, _time(packet) + length)
            if packet.stream.index == stream.index:
                for frame in codec.decode(packet if packet.size else None):
                    assert isinstance(frame, VideoFrame)
                    if frame.time_base is None:  # of the last ones
                        frame.time_base = self.time_base
                    yield frame
        if self._length is not None:
            end -= Fraction(container.start_time or 0, av.time_base)
            if end < self._length - _TOLERANCE - _SHARE * self._length:
                raise VideoError(
                    f"{self.path} is damaged: it ends after {float(end):.1f} of "
                    f"{self._length:.1f} seconds"
                )


@dataclass(frozen=True)
class Encoding:
    """How a result is encoded.

    Attributes:
        codec: FFmpeg's name of the encoder.
        format: name of the pixel format.
        options: of the encoder.
        settings: what distinguishes this result from others, for resuming.
        notes: sentences on what the encoder cannot hold.

    Examples:
        >>> from fastfcs.video.file import Encoding
        >>> Encoding("libx264", "yuv420p", {"crf": "18"}).notes
        ()
    """

    codec: str
    format: str
    options: dict[str, str]
    settings: str = ""
    notes: tuple[str, ...] = ()


def choose_encoding(
    kind: Kind, target: str | Path, codec: str | None = None, crf: float | None = None
) -> Encoding:
    """Choose the encoder and the pixel format that hold a video best.

    Args:
        kind: of the video.
        target: the output; its suffix is one of `CONTAINERS`.
        codec: FFmpeg's name of an encoder. By default H.264; VP9 in WebM; VP9 and ProRes for
            transparent Matroska and QuickTime files.
        crf: the constant rate factor; by default a visually lossless one.

    Returns:
        The encoding.

    Raises:
        VideoError: the suffix or the codec is unknown, or cannot hold the video's transparency.

    Examples:
        >>> from av import VideoFrame
        >>> from fastfcs.video.file import choose_encoding
        >>> from fastfcs.video.frames import Kind
        >>> choose_encoding(Kind.of(VideoFrame(64, 48, "yuv422p10le")), "out.mp4").format
        'yuv422p10le'
    """
    suffix = Path(target).suffix.lower()
    if suffix not in CONTAINERS:
        names = ", ".join(CONTAINERS)
        raise VideoError(f"output must end in {names}, or be a folder, got {target}")
    if codec is None:
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        if kind.has_alpha:
            codec = {".mov": "prores_ks", ".mkv": "libvpx-vp9"}.get(suffix, codec)
    try:
        formats = [each.name for each in av.Codec(codec, "w").video_formats or ()]
    except (FFmpegError, ValueError) as error:
        raise VideoError(f"codec must be an encoder of FFmpeg, got {codec!r}") from error
    if not formats:
        raise VideoError(f"codec must be an encoder of video, got {codec!r}")
    if crf is not None and codec not in _QUALITY:
        raise VideoError(f"crf must be given with one of {', '.join(_QUALITY)}, got {codec!r}")
    # Of the formats that hold a video of odd sides, the others being left out, the first that the
    # encoder takes, in the order of what it loses.
    depths = sorted((8, 10, 12), key=lambda depth: (depth < kind.depth, abs(depth - kind.depth)))
    chromas = [each for each in ("420", "422", "444") if _holds_sides(codec, each, kind)]
    if kind.has_alpha and codec in _ALPHA_CHROMA:
        chromas = [_ALPHA_CHROMA[codec]]
    chromas.sort(key=lambda each: (each < kind.chroma, abs(int(each) - int(kind.chroma))))
    found = [
        (depth, chroma, format)
        for depth in depths
        for chroma in chromas
        if (format := _format_name(chroma, depth, kind.has_alpha)) in formats
    ]
    if not found and kind.has_alpha:
        raise VideoError(
            f"{target} must hold transparency, which {codec} does not: "
            "write .webm or .mkv (VP9), or .mov (ProRes)"
        )
    if not found:
        raise VideoError(f"codec must take YUV frames of 8 to 12 bits, got {codec!r}")
    depth, chroma, format = found[0]
    notes = []
    if depth < kind.depth:
        notes.append(f"{kind.depth} bits per channel reduced to {depth}: {codec} writes no more")
    if chroma < kind.chroma:
        notes.append(f"chroma reduced from {_ratio(kind.chroma)} to {_ratio(chroma)}")
    if not _holds_sides(codec, kind.chroma, kind):
        notes.append(
            f"written with {_ratio(chroma)} chroma, which some players cannot show, because "
            f"{kind.width} x {kind.height} is odd"
        )
    options = dict(_OPTIONS.get(codec, {}))
    if codec in _QUALITY:
        options["crf"] = f"{_QUALITY[codec] if crf is None else crf:g}"
    if codec == "prores_ks":
        options |= {"profile": "4444" if kind.has_alpha else "hq"}
    return Encoding(codec, format, options, notes=tuple(notes))


def _holds_sides(codec: str, chroma: str, kind: Kind) -> bool:
    """Whether an encoder takes frames of odd sides with this subsampling."""
    whole = codec in _WHOLE_PAIRS
    return not (
        whole and ((kind.width % 2 and chroma != "444") or (kind.height % 2 and chroma == "420"))
    )


def _format_name(chroma: str, depth: int, alpha: bool) -> str:
    return f"yuv{'a' if alpha else ''}{chroma}p{'' if depth == 8 else f'{depth}le'}"


def _ratio(chroma: str) -> str:
    return ":".join(chroma)


def partial_path(target: str | Path) -> Path:
    """Tell where a result is kept until it is whole.

    Args:
        target: the output.

    Returns:
        The path of the partial file, beside it.

    Examples:
        >>> from fastfcs.video.file import partial_path
        >>> partial_path("clips/out.mp4").name
        'out.partial.mp4'
    """
    path = Path(target)
    return path.with_name(f"{path.stem}.partial{path.suffix}")


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
        >>> from fastfcs.video.file import Encoder
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
        format = CONTAINERS[new.suffix.lower()]
        try:
            self._container: OutputContainer = self._stack.enter_context(
                av.open(
                    str(new),
                    "w",
                    format,
                    container_options=_FRAGMENTED if format in _IS_MOV else _CLUSTERED,
                )
            )
            self._container.metadata[_SETTINGS] = encoding.settings
            self._stream = self._add_stream(video, encoding)
            self._container.start_encoding()
        except (FFmpegError, ValueError) as error:
            self._stack.close()
            new.unlink(missing_ok=True)
            raise VideoError(
                f"{path} cannot be written by {encoding.codec}: {_reason(error)}"
            ) from error
        if kept:
            self._copy(path, kept)
            new.replace(path)

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            with self._stack:
                self._mux(self._stream.encode(None))
        except FFmpegError as failed:
            if kind is None:
                raise VideoError(f"{self._path} cannot be written: {_reason(failed)}") from failed

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
            raise VideoError(f"{self._path} cannot be written: {_reason(error)}") from error

    def _mux(self, packets: Sequence[Packet[Any]]) -> None:
        for packet in packets:
            if packet.pts is not None and packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            if self._last_dts is not None and packet.dts is not None:
                packet.dts = max(packet.dts, self._last_dts + 1)
            self._last_dts = packet.dts
            self._container.mux(packet)

    def _add_stream(self, video: Video, encoding: Encoding) -> VideoStream:
        stream = self._container.add_stream(encoding.codec, rate=video.rate)
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
        if encoding.codec == "libx265" and self._container.format.name in _IS_MOV:
            stream.codec_context.codec_tag = "hvc1"  # Apple's players know no other
        if video.kind.matrix_of_display:
            stream.set_display_matrix(video.kind.matrix_of_display)
        return stream

    def _copy(self, path: str | Path, count: int) -> None:
        with av.open(str(path)) as container:
            stream = _main_stream(container, str(path))
            filter = _TO_ENCODED.get(stream.codec_context.name)
            convert = None if filter is None else BitStreamFilterContext(filter, stream)
            for packet in islice(_packets(path), count):
                # Of the encoder's own packets and of these, decoding times increase.
                self._last_dts = floor(_time(packet) / self._time_base)
                for each in [packet] if convert is None else convert.filter(packet):
                    each.stream = self._stream
                    self._container.mux(each)
                self.done += 1


def _packets(path: str | Path) -> Iterator[Packet[Any]]:
    """The packets of an encoded video, with decoding times, which Matroska does not store."""
    with suppress(FFmpegError), av.open(str(path)) as container:  # the end may be truncated
        stream = _main_stream(container, str(path))
        times: list[int] = [packet.pts or 0 for packet in container.demux(stream) if packet.size]
    ordered = sorted(times)
    rank = {time: index for index, time in enumerate(ordered)}
    delay = max((index - rank[time] for index, time in enumerate(times)), default=0)
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 1
    with av.open(str(path)) as container:
        stream = _main_stream(container, str(path))
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
        with av.open(str(path)) as container:
            mark = next((v for v in container.metadata.values() if v.startswith(settings)), None)
        if mark is None:
            raise VideoError(
                f"{path} must come from the same video and settings to be resumed: "
                "--force starts again"
            )
        if mark != settings:
            return int(mark.removeprefix(settings))
        keys = (index for index, packet in enumerate(_packets(path)) if packet.is_keyframe)
        return max(keys, default=0)
    except (FFmpegError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        return 0  # killed before the first group was written


def check_streams(video: Video, target: str | Path) -> list[str]:
    """Check that an output can hold the streams of a video.

    Args:
        video: the source.
        target: the output; its suffix is one of `CONTAINERS`.

    Returns:
        Notes on streams that are left out.

    Raises:
        VideoError: it cannot hold the audio or the subtitles.

    Examples:
        >>> from fastfcs.video.file import check_streams
        >>> check_streams(video, "out.mkv")  # doctest: +SKIP
        []
    """
    notes = []
    with video._opened() as container:
        for stream in container.streams:
            if stream.index == video.index:
                continue
            kind, codec = stream.type, _codec_name(stream)
            if _is_copied(stream, target):
                continue
            if kind not in _NAMES:
                notes.append(f"stream {stream.index}, {kind}, is left out: {target} cannot hold it")
            else:
                able = [suffix for suffix, each in CONTAINERS.items() if codec in _supported(each)]
                raise VideoError(
                    f"{target} cannot hold the {_NAMES[kind]} ({codec}) of {video.path}"
                    + (f"; {' and '.join(able)} can" if able else "")
                )
    return notes


_STREAM_METADATA = {"language", "title", "filename", "mimetype"}  # the latter of attachments
_NAMES = {"audio": "audio", "subtitle": "subtitles", "video": "second video"}


def _codec_name(stream: Stream) -> str:
    return stream.codec_context.name if stream.codec_context else "unknown"


def _is_copied(stream: Stream, target: str | Path) -> bool:
    format = CONTAINERS[Path(target).suffix.lower()]
    if stream.type == "attachment":
        return format == "matroska"
    if stream.type == "data":
        return False
    return _codec_name(stream) in _supported(format)


def _supported(format: str) -> set[str]:
    from io import BytesIO

    with av.open(BytesIO(), "w", format) as container:
        return set(container.supported_codecs)


def assemble(
    partial: str | Path,
    video: Video,
    target: str | Path,
    settings: str | None = None,
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
        >>> from fastfcs.video.file import assemble
        >>> assemble("out.partial.mp4", video, "out.mp4")  # doctest: +SKIP
    """
    format = CONTAINERS[Path(target).suffix.lower()]
    try:
        with (
            atomic(target) as path,
            video._opened() as source,
            av.open(str(partial)) as restyled,
            av.open(
                str(path), "w", format, container_options=_INDEX_FIRST if format in _IS_MOV else {}
            ) as output,
        ):
            output.metadata.update(_common_metadata(source))
            last: Fraction | float = float("inf")
            if settings is not None:
                output.metadata[_SETTINGS] = settings
                last = max(map(_time, _packets(partial)))
            new: dict[int, Stream] = {}
            for stream in source.streams:
                if stream.index == video.index:
                    template: Stream = _main_stream(restyled, str(partial))
                elif _is_copied(stream, target):
                    template = stream
                else:
                    continue
                copy = new[stream.index] = output.add_stream_from_template(template)
                copy.metadata.update(
                    (k, v) for k, v in stream.metadata.items() if k.lower() in _STREAM_METADATA
                )
                if _ALPHA_MODE in map(str.lower, template.metadata):
                    copy.metadata[_ALPHA_MODE] = "1"
                copy.disposition = stream.disposition
            if source.chapters():
                output.set_chapters(source.chapters())
            main = new[video.index]
            others = [source.streams[index] for index in new if index != video.index]
            packets = heapq.merge(
                ((_time(p), p, main) for p in _packets(partial)),
                ((_time(p), p, new[p.stream.index]) for p in source.demux(*others) if p.size)
                if others
                else (),
                key=lambda each: each[0],
            )
            for time, packet, stream in packets:
                if stream is not main and time > last:
                    continue
                packet.stream = stream
                output.mux(packet)
    except FFmpegError as error:
        raise VideoError(f"{target} cannot be written: {_reason(error)}") from error


def _time(packet: Packet[Any]) -> Fraction:
    """The decoding time in seconds, or that of presentation."""
    time = packet.pts if packet.dts is None else packet.dts
    return Fraction(0) if time is None or packet.time_base is None else time * packet.time_base


def _ticks(frame: VideoFrame) -> int:
    return frame.pts or 0


def _common_metadata(container: InputContainer) -> dict[str, str]:
    own = {"major_brand", "minor_version", "compatible_brands", "encoder"}
    return {k: v for k, v in container.metadata.items() if k.lower() not in own}


def _main_stream(container: InputContainer, path: str) -> VideoStream:
    """The first stream of moving pictures; covers of albums are not."""
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise VideoError(f"{path} must be a video, got a picture, which fastfcs stylize restyles")
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        kinds: list[str] = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise VideoError(f"{path} must hold video, got {' and '.join(kinds)}")
    return streams[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
