"""fastfcs video."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from ..progress import ProgressBar
from .errors import sentences
from .jobs import counted
from .options import (
    ARITHMETIC,
    BLEND,
    BRUSH,
    CUTOFF,
    DEVICE,
    FORCE,
    JSON,
    KEEP,
    LEVELS,
    MEMORY,
    PHOTOREAL,
    REFINE,
    STRENGTH,
    STRUCTURE,
    STYLE,
    WEIGHTS,
)
from .pictures import message_console
from .start import import_torch
from .styling import make_stylizer

if TYPE_CHECKING:
    from rich.console import Console

    from ..video.restyle import Progress

_INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


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
@click.option(
    "--hold",
    type=click.Choice(["scene", "flow"]),
    help="With --photoreal: scene, the default, applies one look to each scene, which cannot "
    "flicker; flow restyles every frame and smooths the change along the optical flow: slower.",
)
@click.option(
    "--steadiness",
    type=float,
    help="For paintings and --hold flow: the share of each frame that is taken from the previous "
    "one, from 0 to below 1; less follows changes of light sooner. By default 0.9.",
)
@CUTOFF
@BLEND
@BRUSH
@LEVELS
@STRUCTURE
@KEEP
@STRENGTH
@click.option("--codec", help="Encoder of FFmpeg. By default libx264, or libvpx-vp9 for .webm.")
@click.option(
    "--crf",
    type=click.FloatRange(0, 63),
    help="Constant rate factor of libx264 (by default 18), libx265 (20), libvpx-vp9, libaom-av1 "
    "and libsvtav1 (24): a smaller one gives better pictures and larger files.",
)
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
        if hold is not None and not photoreal:
            raise ValueError("--hold must be given with --photoreal")
        by_look = photoreal and hold != "flow"
        if steadiness is not None and by_look:
            raise ValueError("--steadiness must be given with --hold flow, or without --photoreal")
        if refine is False and by_look:
            raise ValueError("--no-refine must be given with --hold flow, or without --photoreal")
        if force and resume:
            raise ValueError("--resume must be given without --force")
        try:
            from ..video.restyle import restyle
            from ..video.sequence import STEADINESS
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
                steadiness=STEADINESS if steadiness is None else steadiness,
                codec=codec,
                crf=crf,
                resume=resume,
                overwrite=force,
                progress=_bars(console, shown=not as_json),
            )
        except KeyboardInterrupt as stopped:
            click.echo(str(stopped) or "stopped before the first frame", err=True)
            sys.exit(_INTERRUPTED)
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
