"""Frames of a video file as pictures, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from av import VideoFrame
from av.video.format import VideoFormat
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from ..images import Picture, from_samples, to_samples
from ..images.cicp import profile
from ..images.samples import as_planes

_HD = 720  # height in pixels from which colours that are not tagged are those of BT.709
_UNKNOWN = 2  # of ITU-T H.273, for matrices, primaries and curves
TAGS = "color_range", "color_primaries", "color_trc", "colorspace"
"""The attributes of frames and codecs that tag colours."""

_MATRICES = {1, 4, 5, 6, 7, 9}  # of ITU-T H.273, those that FFmpeg converts
_HDR_DATA = {
    *("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DYNAMIC_HDR_PLUS"),
    *("DYNAMIC_HDR_VIVID", "DOVI_METADATA", "DOVI_RPU_BUFFER"),
}
_ONE = 1 << 16  # in the fixed-point numbers of a display matrix
_PACKED = {
    (8, False): "rgb24",
    (8, True): "rgba",
    (16, False): "rgb48le",
    (16, True): "rgba64le",
}


@dataclass(frozen=True)
class Kind:
    """How the frames of a video are to be understood.

    Attributes:
        width, height: of a frame as it is stored, in pixels.
        depth: bits per channel.
        has_alpha: whether there is a plane of alpha.
        chroma: the subsampling of the chroma, "420", "422" or "444".
        matrix: code point of the matrix from RGB to YUV (ITU-T H.273).
        full_range: whether samples span all values.
        tags: the code points of range, primaries, transfer and matrix that a result is tagged with.
        icc: colour profile, or None for sRGB.
        matrix_of_display: the nine numbers by which a player turns frames, or None.
        notes: sentences on what is understood in another way than it is tagged.

    Examples:
        >>> from av import VideoFrame
        >>> from fastfcs.video.frames import Kind
        >>> kind = Kind.of(VideoFrame(64, 48, "yuv420p10le"))
        >>> kind.depth, kind.chroma, kind.has_alpha
        (10, '420', False)
    """

    width: int
    height: int
    depth: int
    has_alpha: bool
    chroma: str
    matrix: int
    full_range: bool
    tags: dict[str, int]
    icc: bytes | None
    matrix_of_display: tuple[int, ...] | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, frame: VideoFrame) -> Kind:
        """Find the kind of a video from its first frame.

        Args:
            frame: the frame.

        Returns:
            The kind.

        Raises:
            ValueError: the colours are encoded in a way that FFmpeg does not convert.
        """
        format, matrix = frame.format, int(frame.colorspace)
        tags = {name: int(getattr(frame, name)) for name in TAGS}
        is_rgb = format.is_rgb or format.has_palette
        if is_rgb:  # the result is not
            matrix = tags["colorspace"] = int(Colorspace.ITU709)
            tags["color_range"] = int(ColorRange.MPEG)
        elif matrix == _UNKNOWN:
            matrix = int(Colorspace.ITU709 if frame.height >= _HD else Colorspace.ITU601)
        if matrix not in _MATRICES:
            raise ValueError(
                f"its colours must be encoded by one of the matrices {sorted(_MATRICES)} of "
                f"ITU-T H.273, got {matrix}"
            )
        full_range = tags["color_range"] == ColorRange.JPEG or format.name.startswith("yuvj")
        icc, notes = profile(int(frame.color_primaries), int(frame.color_trc))
        display, beside = None, cast(Mapping[str, bytes], frame.side_data)
        if "DISPLAYMATRIX" in beside:
            display = tuple(np.frombuffer(bytes(beside["DISPLAYMATRIX"]), "<i4").tolist())
        if any(name in beside for name in _HDR_DATA):
            notes.append("its HDR metadata are left out")
        if frame.interlaced_frame:
            notes.append(
                "it is interlaced: both fields of a frame are restyled as one picture, and the "
                "result is progressive"
            )
        return cls(
            frame.width,
            frame.height,
            max(component.bits for component in format.components),
            any(component.is_alpha for component in format.components) or format.has_palette,
            _chroma(format),
            matrix,
            full_range,
            tags,
            icc,
            display,
            tuple(notes),
        )

    @property
    def turns(self) -> int:
        """Quarter turns, counterclockwise, that make a frame upright."""
        if self.matrix_of_display is None:
            return 0
        a, b, _, c, d = (round(number / _ONE) for number in self.matrix_of_display[:5])
        turns = {(1, 0, 0, 1): 0, (0, 1, -1, 0): 3, (-1, 0, 0, -1): 2, (0, -1, 1, 0): 1}
        return turns.get((a, b, c, d), 0)


def _chroma(format: VideoFormat) -> str:
    if format.is_rgb or format.has_palette or len(format.components) < 3:
        return "444" if format.is_rgb or format.has_palette else "420"
    if format.chroma_width(4) == 4:
        return "444"
    return "422" if format.chroma_height(4) == 4 else "420"


class Converter:
    """Converts frames of one kind to pictures, and pictures to frames that an encoder takes.

    Args:
        kind: of the frames.
        target: name of the pixel format of the encoder.

    Examples:
        >>> import numpy as np
        >>> from av import VideoFrame
        >>> from fastfcs.video.frames import Converter, Kind
        >>> grey = np.full((48, 64, 3), 128, np.uint8)
        >>> frame = VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv420p")
        >>> converter = Converter(Kind.of(frame), "yuv420p")
        >>> picture = converter.picture(frame)
        >>> picture.size, converter.frame(picture, frame).format.name
        ((64, 48), 'yuv420p')
    """

    def __init__(self, kind: Kind, target: str = "yuv420p") -> None:
        self.kind, self.target = kind, target
        self._in, self._out = VideoReformatter(), VideoReformatter()

    def planar(self, frame: VideoFrame) -> VideoFrame:
        """The frame in planar RGB of 16 bits, with alpha where there is one."""
        return self._to_rgb(frame, "gbrap16le" if self.kind.has_alpha else "gbrp16le")

    def picture(self, frame: VideoFrame, longest: int | None = None) -> Picture:
        """Convert a frame to an upright picture.

        Args:
            frame: the frame.
            longest: longer side, in pixels, to which a larger frame is reduced.

        Returns:
            The picture, of 8 bits per channel, or 16 if the frame has more than 8.
        """
        kind = self.kind
        depth = 16 if kind.depth > 8 else 8
        name = _PACKED[depth, kind.has_alpha]
        scale = 1.0 if longest is None else min(1.0, longest / max(kind.width, kind.height))
        size = max(1, round(scale * kind.width)), max(1, round(scale * kind.height))
        array: Any = self._to_rgb(frame, name, size).to_ndarray()
        array = np.ascontiguousarray(np.rot90(array, kind.turns))
        return Picture(
            as_planes(array[..., :3]),
            from_samples(array[..., 3:])[0] if kind.has_alpha else None,
            kind.icc,
            depth=depth,
        )

    def frame(self, picture: Picture, like: VideoFrame) -> VideoFrame:
        """Convert a picture to a frame for the encoder.

        Args:
            picture: made from ``like``.
            like: the frame that it takes the place of.

        Returns:
            The frame, with the same time.
        """
        depth = 16 if self.kind.depth > 8 else 8
        planes: list[Any] = [to_samples(picture.samples, depth)]
        if picture.alpha is not None:
            planes.append(to_samples(picture.alpha[None], depth))
        stored: Any = np.concatenate(planes, -1)
        stored = np.ascontiguousarray(np.rot90(stored, -self.kind.turns))
        name = _PACKED[depth, picture.alpha is not None]
        return self.encodable(VideoFrame.from_ndarray(stored, format=name), like)

    def encodable(self, rgb: VideoFrame, like: VideoFrame) -> VideoFrame:
        """Convert an RGB frame to the encoder's pixel format, with the time of another frame."""
        frame = self._out.reformat(
            rgb,
            format=self.target,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=self.kind.matrix,
            dst_color_range=ColorRange.JPEG if self.kind.full_range else ColorRange.MPEG,
            interpolation="BICUBIC",
        )
        frame.pts, frame.duration = like.pts, like.duration
        if like.time_base is not None:
            frame.time_base = like.time_base
        for name, value in self.kind.tags.items():  # some encoders look at frames
            setattr(frame, name, value)
        frame.pict_type = PictureType.NONE  # the encoder chooses
        return frame

    def _to_rgb(
        self, frame: VideoFrame, format: str, size: tuple[int, int] | None = None
    ) -> VideoFrame:
        width, height = size or (frame.width, frame.height)
        is_full = self.kind.full_range or frame.format.is_rgb or frame.format.has_palette
        return self._in.reformat(
            frame,
            width,
            height,
            format,
            src_colorspace=self.kind.matrix,
            src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation="AREA" if size and size != (frame.width, frame.height) else "BICUBIC",
        )
