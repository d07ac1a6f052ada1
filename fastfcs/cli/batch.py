"""fastfcs batch."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import click

from ..progress import ProgressBar
from .errors import sentences
from .jobs import counted
from .options import (
    ARITHMETIC,
    BLEND,
    BRUSH,
    CODEC,
    CRF,
    CUTOFF,
    FORCE,
    HOLD,
    JSON,
    KEEP,
    LEVELS,
    MAX_SIZE,
    MEMORY,
    ONE_LOOK,
    PHOTOREAL,
    REFINE,
    SKIP_EXISTING,
    SOLVE_SIZE,
    STEADINESS,
    STRENGTH,
    STRUCTURE,
    STYLE_IF_ANY,
    WEIGHTS,
)
from .pictures import message_console
from .start import import_torch
from .styling import make_stylizer
from .video import INTERRUPTED, held_by_look

if TYPE_CHECKING:
    from rich.console import Console

    from ..batch.manifest import Row


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@STYLE_IF_ANY
@click.option(
    "-o",
    "--output",
    required=True,
    help="A folder, or a name that ends in .parquet for a folder of Parquet files with the "
    "results; on disk or in a store, such as s3://bucket/folder.",
)
@click.option("--input-column", help="Column of tables with paths or bytes.")
@click.option("--name-column", help="Column of tables with the names of the results.")
@click.option("--style-column", help="Column of tables with the style of each picture.")
@click.option(
    "--mask-columns",
    nargs=2,
    metavar="CONTENT STYLE",
    help="Two columns of tables with the region masks of each picture and of its style.",
)
@click.option("--format", help="Suffix of the results, such as jpg; by default that of each input.")
@PHOTOREAL
@CUTOFF
@BLEND
@BRUSH
@LEVELS
@STRUCTURE
@KEEP
@STRENGTH
@MAX_SIZE
@SOLVE_SIZE
@ONE_LOOK
@HOLD
@STEADINESS
@CODEC
@CRF
@WEIGHTS
@REFINE
@ARITHMETIC
@MEMORY
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    help="Head of a Ray cluster (host:port, or auto on one of its nodes). Without it, Ray runs on "
    "this machine as long as the command.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that restyle: by default one per GPU, or as many as cores and memory allow.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    help="CPU cores per worker. By default 1, which gets most pictures done.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="By default cuda if there are GPUs.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How often a picture is tried again after its worker has died or a store has failed.",
)
@FORCE
@SKIP_EXISTING
@JSON
def batch(
    inputs: tuple[str, ...],
    style: tuple[str, ...],
    output: str,
    input_column: str | None,
    name_column: str | None,
    style_column: str | None,
    mask_columns: tuple[str, str] | None,
    format: str | None,
    photoreal: bool,
    cutoff: float | None,
    blend: list[float] | None,
    brush: float | None,
    levels: int | None,
    structure: float | None,
    keep: str | None,
    strength: float,
    max_size: int | None,
    solve_size: int | None,
    one_look: bool,
    hold: Literal["scene", "flow"] | None,
    steadiness: float | None,
    codec: str | None,
    crf: float | None,
    weights: str,
    refine: bool | None,
    precision: str,
    memory: int | None,
    address: str | None,
    workers: int | None,
    cores: int | None,
    device: str | None,
    retries: int,
    force: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Restyle many pictures and videos, on this machine or on a Ray cluster.

    INPUT is a folder with its subfolders, a pattern such as 'in/**/*.jpg', a list (.txt, a path per
    line), or a table (.csv or .parquet) of paths or of the bytes of pictures; on disk or in any
    store that fsspec knows. OUTPUT mirrors it, and _manifest.parquet in it tells what has become of
    every picture. The same command, started again, does only what is missing. If a picture cannot
    be restyled, the others still are, and the exit code is 2.
    """
    import_torch()
    with sentences():
        if not style and style_column is None:
            raise ValueError("--style must be given, or --style-column, got neither")
        if skip_existing and force:
            raise ValueError("--skip-existing must be given without --force")
        for name, is_given in (("--one-look", one_look), ("--solve-size", solve_size is not None)):
            if is_given and not photoreal:
                raise ValueError(f"{name} must be given with --photoreal")
        if one_look and (style_column or mask_columns or refine is False or solve_size is not None):
            raise ValueError(
                "--one-look must be given without --style-column, --mask-columns, --no-refine and "
                "--solve-size"
            )
        held_by_look(photoreal, hold, steadiness)
        try:
            import_module("fastfcs.batch")
        except ImportError as error:
            raise ValueError(
                "fastfcs batch needs Ray Data, which pip install 'fastfcs[batch]' installs"
            ) from error
        from .. import images
        from ..batch import (
            Columns,
            Recipe,
            choose_workers,
            connected,
            find_jobs,
            restyle,
            unfinished,
        )
        from ..batch.jobs import check_format
        from ..batch.work import content_of
        from ..large import SOLVE_SIZE as DEFAULT
        from ..restyling import find_look, set_style

        stylizer = make_stylizer(
            photoreal=photoreal,
            keep=keep,
            cutoff=cutoff,
            brush=brush,
            levels=levels,
            structure=structure,
            memory=memory,
            device="cpu",
            weights=weights,
            refine=refine,
            strength=strength,
            precision=precision,
            solve_size=DEFAULT if solve_size is None else solve_size or None,
        )
        console = message_console()
        columns = Columns(input_column, name_column, style_column, mask_columns)
        jobs = find_jobs(inputs, output, columns, check_format(format), console.print)
        for note in set_style(stylizer, style, blend) if style else []:
            console.print(note)
        video = {
            "hold": hold,
            "codec": codec,
            "crf": crf,
            **({} if steadiness is None else {"steadiness": steadiness}),
        }
        only = style[0] if len(style) == 1 else None
        recipe = Recipe(stylizer, style=only, max_size=max_size, video=video)
        if one_look:
            photos = [job for job in jobs if not job.is_video]
            look = find_look(stylizer, photos, lambda job: images.read(BytesIO(content_of(job))))
            recipe = replace(recipe, look=look)
        missing, rows = unfinished(
            jobs, output, recipe, overwrite=force, skip_existing=skip_existing
        )
        if len(missing) < len(jobs):
            skipped = counted(len(jobs) - len(missing), "picture")
            console.print(f"{skipped} skipped: the output exists")
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        progress = _Progress(console, output, len(missing), as_json)
        try:
            if missing:
                with connected(address), progress:
                    found = choose_workers(workers, cores, device)
                    restyle(
                        missing,
                        output,
                        recipe,
                        found,
                        rows,
                        retries=retries,
                        report=progress.report,
                    )
        except KeyboardInterrupt:
            click.echo(f"stopped: {progress.summary}, and the same command continues", err=True)
            sys.exit(INTERRUPTED)
    console.print(progress.summary)
    if progress.failed:
        sys.exit(2)


class _Progress:
    """The progress bar, with pictures per second; errors and JSON as they come."""

    def __init__(self, console: Console, output: str, total: int, as_json: bool) -> None:
        self._console, self._output, self._as_json = console, output, as_json
        self._total, self.done, self.failed = total, 0, 0
        self._bar = ProgressBar(total, shown=not as_json, smoothing=0, console=console)
        self._start = time.perf_counter()

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        self._bar.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    @property
    def summary(self) -> str:
        seconds = time.perf_counter() - self._start
        done, rate = self.done, (self.done + self.failed) / seconds
        return (
            f"{done} of {counted(self._total, 'picture')} done, {self.failed} failed, "
            f"{seconds:.0f} s, {rate:.2f} pictures per second"
        )

    def report(self, row: Row) -> None:
        if row.error is None:
            self.done += 1
        else:
            self.failed += 1
            self._console.print(row.error)
        if self._as_json:
            facts = asdict(row) | {"output": f"{self._output.rstrip('/')}/{row.output}"}
            click.echo(json.dumps({name: value for name, value in facts.items() if value}))
        rate = (self.done + self.failed) / (time.perf_counter() - self._start)
        self._bar.report({"pictures per second": rate})
        self._bar.advance()
