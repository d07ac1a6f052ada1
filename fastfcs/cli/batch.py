"""fastfcs batch."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

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
from .styling import make_stylizer
from .video import INTERRUPTED, held_by_look

if TYPE_CHECKING:
    from rich.console import Console

    from ..batch.jobs import Job
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
        by_look = held_by_look(photoreal, hold, steadiness)
        try:
            import_module("fastfcs.batch")
        except ImportError as error:
            raise ValueError(
                "fastfcs batch needs Ray Data, which pip install 'fastfcs[batch]' installs"
            ) from error
        from ray.exceptions import RayError

        from .. import images
        from ..batch import (
            Columns,
            Manifest,
            Recipe,
            choose_workers,
            connected,
            find_jobs,
            restyle,
            store,
            unfinished,
        )
        from ..batch.jobs import check_format
        from ..batch.work import content_of
        from ..large import SOLVE_SIZE as DEFAULT
        from ..presets import find
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
        unstyled = [] if style else [job.input for job in jobs if job.style is None]
        if unstyled:
            raise ValueError(f"--style must be given for {unstyled[0]}, which has none of its own")
        _check_videos(jobs, max_size, one_look, by_look and refine is False)
        with ExitStack() as stack:
            paths = [stack.enter_context(store.local(s)) if "://" in s else s for s in style]
            for note in set_style(stylizer, paths, blend) if style else []:
                console.print(note)
        video = {
            "hold": hold,
            "codec": codec,
            "crf": crf,
            **({} if steadiness is None else {"steadiness": steadiness}),
        }
        only = None
        if len(style) == 1 and find(style[0]) is None:
            only = store.absolute(style[0])
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
        progress = _Progress(console, output, len(missing), as_json)
        new: list[Row] = []
        try:
            if not missing:
                Manifest(output).finish(rows.values())
            else:
                with connected(address), progress:
                    for number in (signal.SIGTERM, signal.SIGHUP):  # after Ray has set its own
                        signal.signal(number, signal.default_int_handler)
                    found = choose_workers(workers, cores, device)
                    new = restyle(
                        missing,
                        output,
                        recipe,
                        found,
                        rows,
                        retries=retries,
                        report=progress.report,
                    )
        except KeyboardInterrupt:
            again = "the same command without --force" if force else "the same command"
            click.echo(f"stopped: {progress.summary}; {again} continues", err=True)
            sys.exit(INTERRUPTED)
        except RayError as error:
            first = str(error).splitlines()[0]
            raise RuntimeError(
                f"Ray has failed, and the same command continues: {first}"
            ) from error
    if missing:
        console.print(progress.summary)
    noted = sum(bool(row.notes) for row in [*rows.values(), *new])
    if noted:
        console.print(f"{counted(noted, 'result')} with notes, see {Manifest(output).url}")
    if progress.failed:
        sys.exit(2)


def _check_videos(
    jobs: Sequence[Job], max_size: int | None, one_look: bool, unrefined: bool
) -> None:
    """Check that what videos cannot have is not asked for, and that they can be read."""
    video = next((job for job in jobs if job.is_video), None)
    if video is None:
        return
    try:
        import_module("fastfcs.video.restyle")
    except ImportError as error:
        raise ValueError(
            "videos need PyAV and OpenCV, which pip install 'fastfcs[video]' installs"
        ) from error
    given = {
        "--max-size": max_size is not None,
        "--one-look": one_look,
        "--no-refine": unrefined,
        "--mask-columns": any(job.is_video and job.masks for job in jobs),
    }
    for name, is_given in given.items():
        if is_given:
            raise ValueError(f"{name} must be given without videos, got {video.input}")


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
