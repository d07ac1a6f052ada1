"""Whole videos: from a file, or a folder of numbered pictures, to another."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from typing import Literal, TypeAlias

import torch
from av import VideoFrame
from av.filter import Graph

from .. import images
from ..checks import MIN_SIDE
from ..constraints.registry import is_photoreal
from ..look import Look
from ..memory import return_freed
from ..stylizer import Stylizer
from .ahead import ahead
from .container import CONTAINERS, VideoError
from .encoding import Encoding, choose_encoding
from .folder import numbered, output_of
from .frames import Converter
from .partial import Encoder, partial_path
from .scenes import Frame, Looks, calmed, find_scenes
from .sequence import STEADINESS, Sequence
from .source import Video
from .streams import assemble, check_streams

Hold: TypeAlias = Literal["scene", "flow"]
Progress: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]
"""Begins a stage of a name and a number of frames; gives a function that counts one more frame."""

_WARM_UP = 24  # frames that are restyled again, unseen, before a sequence is resumed


class Stopped(KeyboardInterrupt):
    """Raised instead of a KeyboardInterrupt if a part of the result was kept.

    Examples:
        >>> from fastfcs.video.restyle import Stopped
        >>> str(Stopped("stopped after 24 frames"))
        'stopped after 24 frames'
    """


@dataclass(frozen=True)
class Report:
    """What was restyled.

    Attributes:
        frames: number of frames.
        size: width and height of a frame, in pixels, as it is stored.
        scenes: number of looks, or None where there are none.
        notes: sentences for the user.

    Examples:
        >>> from fastfcs.video.restyle import Report
        >>> Report(24, (1280, 720), None, ()).frames
        24
    """

    frames: int
    size: tuple[int, int]
    scenes: int | None
    notes: tuple[str, ...]


@contextmanager
def _in_silence(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


def restyle(
    source: str | Path,
    target: str | Path,
    stylizer: Stylizer,
    *,
    hold: Hold | None = None,
    steadiness: float = STEADINESS,
    codec: str | None = None,
    crf: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = _in_silence,
) -> Report:
    """Restyle a video.

    Args:
        source: a video file, or a folder of numbered pictures.
        target: a file that ends in one of `fastfcs.video.container.CONTAINERS`, or a folder for a
            folder. A file gets the source's times, size, rotation, colour tags, audio, subtitles,
            chapters and metadata.
        stylizer: with one style.
        hold: how a photograph's frames are held together: "scene", the default, finds one look per
            scene on a few of its frames and applies it to all; "flow" restyles every frame and
            smooths the change along the optical flow (`Sequence`). None for paintings.
        steadiness: see `Sequence`; without effect on "scene".
        codec, crf: see `fastfcs.video.encoding.choose_encoding`.
        resume: whether to continue what an interrupted run has left.
        overwrite: whether to replace an existing output, or to start again.
        progress: is told of every frame.

    Returns:
        A report.

    Raises:
        VideoError: a file cannot be read or written, is damaged, or exists; the message is one
            sentence.
        ValueError, RuntimeError: see `Stylizer.look` and `Sequence`.
        Stopped: Ctrl-C was pressed, and a partial file is kept.

    Examples:
        >>> from fastfcs import Stylizer
        >>> from fastfcs.video.restyle import restyle
        >>> restyle("gone.mp4", "out.mp4", Stylizer(weights="tiny"))
        Traceback (most recent call last):
        fastfcs.video.container.VideoError: gone.mp4 cannot be read: No such file or directory
    """
    if not isinstance(stylizer, Stylizer):
        raise TypeError(f"stylizer must be a Stylizer, got {type(stylizer).__name__}")
    statistics = stylizer.statistics.get()
    if statistics is not None and statistics[0].styles != 1:
        raise ValueError(f"style must be a single one for a video, got {statistics[0].styles}")
    photoreal = is_photoreal(stylizer.constraint)
    if hold is not None and not photoreal:
        raise ValueError(f"hold must be None for a painting, got {hold!r}")
    by_look = photoreal and hold != "flow"
    sequence = None if by_look else Sequence(stylizer, steadiness=steadiness)
    job = _Job(stylizer, sequence, resume, overwrite, progress)
    if os.path.isdir(source):
        if codec is not None or crf is not None:
            raise VideoError("codec and crf must be given with a video file, got a folder")
        return _restyle_folder(Path(source), Path(target), job)
    video = Video(source)
    encoding = choose_encoding(video.kind, target, codec, crf)
    settings = _fingerprint(source, stylizer, hold if photoreal else None, steadiness, encoding)
    encoding = replace(encoding, settings=settings)
    return _restyle_file(video, Path(target), encoding, job)


@dataclass(frozen=True)
class _Job:
    """How a file or a folder is restyled; without a sequence there are looks."""

    stylizer: Stylizer
    sequence: Sequence | None
    resume: bool
    overwrite: bool
    progress: Progress


def _restyle_file(video: Video, target: Path, encoding: Encoding, job: _Job) -> Report:
    kind, unfinished = video.kind, partial_path(target)
    if min(kind.width, kind.height) < MIN_SIDE:
        raise VideoError(
            f"{video.path} must be at least {MIN_SIDE} pixels per side, "
            f"got {kind.width} x {kind.height}"
        )
    _check_output(video.path, target, job.overwrite)
    if unfinished.exists() and os.path.samefile(video.path, unfinished):
        raise VideoError(f"output must not be {target}: {unfinished} is the video itself")
    if unfinished.exists() and not (job.resume or job.overwrite):
        raise VideoError(f"{unfinished} exists already: --resume continues it, --force replaces it")
    notes = (*kind.notes, *encoding.notes, *check_streams(video, target, encoding))
    converter = Converter(kind, encoding.format)
    looks = None
    if job.sequence is None:
        frames = (partial(converter.picture, frame) for frame in ahead(video.frames()))
        looks = _find_looks(frames, job.stylizer, video.count, job.progress)
    with (
        _restyled(converter, looks, job.sequence) as restyled,
        Encoder(unfinished, video, encoding, job.resume) as encoder,
    ):
        done = encoder.done
        try:
            with job.progress("restyling", video.count) as advance:
                for index, frame in enumerate(ahead(video.frames())):
                    if index >= encoder.done:
                        result = restyled(index, frame)
                        with _uninterrupted():
                            encoder.write(result)
                            done = index + 1
                    elif job.sequence is not None and index >= encoder.done - _WARM_UP:
                        restyled(index, frame)
                    advance()
        except BaseException as error:
            failed: BaseException | None = error
        else:
            failed = None
    of = f" of about {video.count}" if video.count else ""
    kept = f"{done}{of} frames are in {unfinished}"
    try:
        if failed is None:
            assemble(unfinished, video, target)
            unfinished.unlink()
        elif not done:
            unfinished.unlink()
        else:
            assemble(unfinished, video, unfinished, f"{encoding.settings} {done}")
    except KeyboardInterrupt as error:
        failed = error
    except VideoError:
        if failed is None:
            raise
    if isinstance(failed, KeyboardInterrupt) and done:
        raise Stopped(f"stopped: {kept}, and --resume continues it") from failed
    if isinstance(failed, VideoError) and done:
        raise VideoError(f"{failed}; {kept}") from failed
    if failed is not None:
        raise failed
    scenes = None if looks is None else len(looks.starts)
    return Report(done, (kind.width, kind.height), scenes, notes)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block, so that no packet is lost."""
    if current_thread() is not main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _restyle_folder(source: Path, target: Path, job: _Job) -> Report:
    paths = numbered(source)
    outputs = [target / output_of(path) for path in paths]
    is_file = target.exists() or target.suffix.lower() in CONTAINERS
    if is_file and not target.is_dir():
        raise VideoError(f"output must be a folder for a folder of pictures, got {target}")
    if len(set(outputs)) < len(outputs):
        twice = next(path for path in outputs if outputs.count(path) > 1)
        raise VideoError(f"{source} must have one picture per number, got two for {twice.name}")
    if target.resolve() == source.resolve():
        raise VideoError(f"output must be another folder than the source, got {target}")
    existing = [path for path in outputs if path.exists()]
    if existing and not (job.resume or job.overwrite):
        raise VideoError(f"{existing[0]} exists already: --resume keeps it, --force replaces it")
    target.mkdir(parents=True, exist_ok=True)
    done = [job.resume and path.exists() for path in outputs]
    first = images.read(paths[0])
    notes = (*first.notes, *images.conversion_notes(first, images.format_of(outputs[0])))
    looks = None
    if job.sequence is None and not all(done):
        frames = (partial(images.fit_picture, p) for p in ahead(map(images.read, paths)))
        looks = _find_looks(frames, job.stylizer, len(paths), job.progress)
    count = 0
    try:
        with job.progress("restyling", len(paths)) as advance, torch.inference_mode():
            for index, picture in enumerate(ahead(map(images.read, paths))):
                if looks is not None and not done[index]:
                    images.write(looks.of(index)(picture), outputs[index])
                elif job.sequence is not None and not all(done[index : index + _WARM_UP]):
                    result = job.sequence(picture)
                    if not done[index]:
                        images.write(result, outputs[index])
                count = index + 1
                advance()
    except KeyboardInterrupt as error:
        if not count:
            raise
        kept = f"{count} of {len(paths)} pictures are in {target}"
        raise Stopped(f"stopped: {kept}, and --resume continues") from error
    scenes = None if looks is None else len(looks.starts)
    return Report(len(paths), first.size, scenes, notes)


def _find_looks(
    frames: Iterable[Frame], stylizer: Stylizer, count: int | None, progress: Progress
) -> Looks:
    """One look per scene."""

    def counted(advance: Callable[[], None]) -> Iterator[Frame]:
        for frame in frames:
            yield frame
            advance()

    starts, looks = [], []
    with progress("finding scenes", count) as advance, torch.inference_mode():
        for scene in find_scenes(counted(advance)):
            visible = [p for p in scene.pictures if p.alpha is None or p.alpha.any()]
            starts.append(scene.start)
            looks.append(calmed(stylizer.look(visible), visible) if visible else Look.identity())
    return_freed()  # encoders take memory, too
    return Looks(starts, looks)


@contextmanager
def _restyled(
    converter: Converter, looks: Looks | None, sequence: Sequence | None
) -> Iterator[Callable[[int, VideoFrame], VideoFrame]]:
    """A function that restyles the frame of an index."""
    if looks is None:
        assert sequence is not None

        def by_sequence(index: int, frame: VideoFrame) -> VideoFrame:
            return converter.frame(sequence(converter.picture(frame)), frame)

        with torch.inference_mode():
            yield by_sequence
        return
    with TemporaryDirectory(prefix="fastfcs-") as folder:
        luts: dict[int, _Lut] = {}

        def by_look(index: int, frame: VideoFrame) -> VideoFrame:
            look = looks.of(index)
            if id(look) not in luts:
                path = Path(folder) / "look.cube"
                look.encoded(converter.kind.icc).save(path)
                luts.clear()
                luts[id(look)] = _Lut(path, converter.planar(frame))
            return converter.encodable(luts[id(look)](converter.planar(frame)), frame)

        yield by_look


class _Lut:
    """FFmpeg's filter lut3d for frames like one."""

    def __init__(self, path: Path, like: VideoFrame) -> None:
        self._graph = Graph()
        source = self._graph.add(
            "buffer",
            video_size=f"{like.width}x{like.height}",
            pix_fmt=like.format.name,
            time_base=str(like.time_base),
            colorspace="gbr",
            range="pc",
        )
        lut = self._graph.add("lut3d", file=str(path), interp="tetrahedral")
        sink = self._graph.add("buffersink")
        source.link_to(lut)
        lut.link_to(sink)
        self._graph.configure()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        self._graph.push(frame)
        result = self._graph.pull()
        assert isinstance(result, VideoFrame)
        return result


def _check_output(source: str, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise VideoError(f"output must be a file for a video, got the folder {target}")
    if not target.parent.is_dir():
        raise VideoError(f"{target} cannot be written: {target.parent} is not a folder")
    if target.exists() and os.path.samefile(source, target):
        raise VideoError(f"output must be another file than the video, got {target}")
    if target.exists() and not overwrite:
        raise VideoError(f"{target} exists already; --force overwrites")


def _fingerprint(
    source: str | Path,
    stylizer: Stylizer,
    hold: Hold | None,
    steadiness: float,
    encoding: Encoding,
) -> str:
    """Identify the source and the settings: a partial file is resumed only if they match."""
    status = os.stat(source)
    digest = hashlib.sha256()
    for tensor in stylizer.state_dict().values():
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    facts = [
        os.path.realpath(source),
        status.st_size,
        status.st_mtime_ns,
        stylizer.extra_repr(),
        hold,
        steadiness,
        encoding.codec,
        encoding.format,
        encoding.options,
    ]
    digest.update(json.dumps(facts).encode())
    return f"fastfcs {digest.hexdigest()}"
