"""The encoder and the pixel format of a result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av import FFmpegError

from .container import VideoError, container_of
from .frames import Kind

# Encoders that take a constant rate factor, with the default one of each.
_QUALITY = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libaom-av1": 24, "libsvtav1": 24}
_OPTIONS = {
    "libx264": {"preset": "faster"},  # a look is applied much faster than medium encodes
    "libx265": {"x265-params": "log-level=error"},
    "libvpx-vp9": {"b": "0", "cpu-used": "4", "row-mt": "1", "deadline": "good"},
}
_ALPHA_CHROMA = {"libvpx-vp9": "420"}  # the only one that it takes with alpha
_WHOLE_PAIRS = {"libx264", "libx265"}  # their frames consist of whole chroma samples


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
        >>> from fastfcs.video.encoding import Encoding
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
        target: the output; its suffix is one of `fastfcs.video.container.CONTAINERS`.
        codec: FFmpeg's name of an encoder. By default H.264; VP9 in WebM; VP9 and ProRes for
            transparent Matroska and QuickTime files.
        crf: the constant rate factor; by default a visually lossless one.

    Returns:
        The encoding.

    Raises:
        VideoError: the suffix or the codec is unknown, or cannot hold the video's transparency.

    Examples:
        >>> from av import VideoFrame
        >>> from fastfcs.video.encoding import choose_encoding
        >>> from fastfcs.video.frames import Kind
        >>> choose_encoding(Kind.of(VideoFrame(64, 48, "yuv422p10le")), "out.mp4").format
        'yuv422p10le'
    """
    container = container_of(target)
    if codec is None:
        codec = "libvpx-vp9" if container == "webm" else "libx264"
        if kind.has_alpha:
            codec = {"mov": "prores_ks", "matroska": "libvpx-vp9"}.get(container, codec)
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
    if chroma != "420" and codec in _WHOLE_PAIRS:
        odd = "" if _holds_sides(codec, kind.chroma, kind) else ", since its sides are odd"
        notes.append(f"written with {_ratio(chroma)} chroma, which some players cannot show{odd}")
    options = dict(_OPTIONS.get(codec, {}))
    if codec in _QUALITY:
        options["crf"] = f"{_QUALITY[codec] if crf is None else crf:g}"
    if codec == "prores_ks":
        options["profile"] = "4444" if chroma == "444" else "hq"
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
