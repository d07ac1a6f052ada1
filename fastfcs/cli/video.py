"""fastfcs video."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from ..errors import counted
from ..progress import ProgressBar
from ..start import import_torch
from .errors import sentences
from .options import (
    ARITHMETIC,
    BLEND,
    BRUSH,
    CODEC,
    CRF,
    CUTOFF,
    DEVICE,
    FORCE,
    HOLD,
    JSON,
    KEEP,
    LEVELS,
    MEMORY,
    PHOTOREAL,
    REFINE,
    STEADINESS,
    STRENGTH,
    STRUCTURE,
    STYLE,
    WEIGHTS,
)
from .pictures import message_console
from .styling import make_stylizer

if TYPE_CHECKING:
    from rich.console import Console

    from ..video.restyle import Progress

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


@click.command()
@click.argument("content")
@STYLE
@click.option(
    "-o",
    "--output",
    required=True,
    help="A file (.mp4, .m4v, .mov, .mkv or .webm), or a folder for a folder.",
)
@PHOTOREAL
@HOLD
@STEADINESS
@CUTOFF
@BLEND
@BRUSH
@LEVELS
@STRUCTURE
@KEEP
@STRENGTH
@CODEC
@CRF
@WEIGHTS
@REFINE
@ARITHMETIC
@MEMORY
@DEVICE
@FORCE
@click.option("--resume", is_flag=True, help="Continue what an interrupted run has left.")
@JSON
def video(
    content: str,
    style: tuple[str, ...],
    output: str,
    photoreal: bool,
    hold: Literal["scene", "flow"] | None,
    steadiness: float | None,
    cutoff: float | None,
    blend: list[float] | None,
    brush: float | None,
    levels: int | None,
    structure: float | None,
    keep: str | None,
    strength: float,
    codec: str | None,
    crf: float | None,
    weights: str,
    refine: bool | None,
    precision: str,
    memory: int | None,
    device: str | None,
    force: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Restyle the video CONTENT in the style of a picture, without flicker.

    CONTENT is a video file, or a folder of numbered pictures. Times, sound, subtitles, rotation and
    colour tags are kept. Until the result is complete, it is kept in a playable partial file beside
    OUTPUT, which --resume continues.
    """
    import_torch()
    from ..restyling import set_style

    with sentences():
        by_look = held_by_look(photoreal, hold, steadiness)
        if refine is False and by_look:
            raise ValueError("--no-refine must be given with --hold flow, or without --photoreal")
        if force and resume:
            raise ValueError("--resume must be given without --force")
        try:
            from ..video.restyle import restyle
            from ..video.sequence import STEADINESS as DEFAULT
        except ImportError as error:
            raise ValueError(
                "fastfcs video needs PyAV and OpenCV, which pip install 'fastfcs[video]' installs"
            ) from error
        stylizer = make_stylizer(
            photoreal=photoreal,
            keep=keep,
            cutoff=cutoff,
            brush=brush,
            levels=levels,
            structure=structure,
            memory=memory,
            device=device,
            weights=weights,
            refine=refine,
            strength=strength,
            precision=precision,
        )
        console = message_console()
        for note in set_style(stylizer, style, blend):
            console.print(note)
        start = time.perf_counter()
        try:
            report = restyle(
                content,
                output,
                stylizer,
                hold=hold,
                steadiness=DEFAULT if steadiness is None else steadiness,
                codec=codec,
                crf=crf,
                resume=resume,
                overwrite=force,
                progress=_bars(console, shown=not as_json),
            )
        except KeyboardInterrupt as stopped:
            click.echo(str(stopped) or "stopped before the first frame", err=True)
            sys.exit(INTERRUPTED)
    seconds = time.perf_counter() - start
    width, height = report.size
    for note in report.notes:
        console.print(f"{content}: {note}")
    scenes = "" if report.scenes is None else f" in {counted(report.scenes, 'scene')}"
    console.print(
        f"{output}: {counted(report.frames, 'frame')} of {width} x {height}{scenes}, "
        f"{seconds:.1f} s, {report.frames / seconds:.1f} frames per second"
    )
    if as_json:
        facts = {
            "input": content,
            "output": output,
            "frames": report.frames,
            "size": list(report.size),
            "scenes": report.scenes,
            "seconds": round(seconds, 3),
            "notes": report.notes,
        }
        click.echo(json.dumps(facts))


def held_by_look(photoreal: bool, hold: str | None, steadiness: float | None) -> bool:
    """Check how the frames of videos are held together.

    Args:
        photoreal, hold, steadiness: the options.

    Returns:
        Whether each scene has one look.

    Raises:
        ValueError: an option does not belong to the kind of result.

    Examples:
        >>> from fastfcs.cli.video import held_by_look
        >>> held_by_look(True, None, None), held_by_look(True, "flow", 0.5)
        (True, False)
    """
    if hold is not None and not photoreal:
        raise ValueError("--hold must be given with --photoreal")
    by_look = photoreal and hold != "flow"
    if steadiness is not None and by_look:
        raise ValueError("--steadiness must be given with --hold flow, or without --photoreal")
    return by_look


def _bars(console: Console, shown: bool) -> Progress:
    """Progress bars, one per stage, with frames per second."""

    @contextmanager
    def stage(name: str, total: int | None) -> Iterator[Callable[[], None]]:
        start, frames = time.perf_counter(), 0
        with ProgressBar(total, shown=shown, smoothing=0, console=console) as bar:

            def advance() -> None:
                nonlocal frames
                frames += 1
                rate = frames / (time.perf_counter() - start)
                bar.report({f"{name}, frames per second": rate})
                bar.advance()

            yield advance

    return stage
