"""fastfcs evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import sentences
from .options import (
    DEVICE,
    FOLDER,
    INTEGERS,
    PATH,
    PRECISION,
    REFINE,
    WEIGHTS,
    device_named,
)

if TYPE_CHECKING:
    from ..evaluation.pairs import PairFiles
    from ..evaluation.summary import Medians


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("-o", "--output", type=PATH, required=True, help="Folder for results and report.")
@click.option(
    "--method",
    "names",
    multiple=True,
    help="Method to compare: content, artistic, photoreal[:CUTOFF,...], regional[:CUTOFF,...], "
    "gatys, luan, projected[:CUTOFF,...], or NAME='FOLDER/x*.png' for the results of another "
    "program, in which * stands for the pair's name. Repeatable.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    help="Reduce larger pictures to this longer side, in pixels.",
)
@click.option("--only", multiple=True, help="Evaluate only the pair of this name. Repeatable.")
@click.option(
    "--style",
    type=FOLDER,
    multiple=True,
    help="Folder of styles: the pictures in FOLDER are then contents, each paired with the next "
    "style in turn. Repeatable.",
)
@click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --style: use only the last N photos.",
)
@click.option(
    "--equivalent-iterations",
    is_flag=True,
    help="Measure how many iterations of descent the network is worth, instead of comparing "
    "methods.",
)
@click.option(
    "--steps",
    type=INTEGERS,
    metavar="N[,N...]",
    help="Iterations of the iterative solvers. Several numbers go from coarse to fine.",
)
@PRECISION
@click.option(
    "--presets",
    type=FOLDER,
    help="With --equivalent-iterations: folder of presets, each named after its style.",
)
@WEIGHTS
@REFINE
@DEVICE
def evaluate(
    folder: Path,
    output: Path,
    names: tuple[str, ...],
    size: int | None,
    only: tuple[str, ...],
    style: tuple[Path, ...],
    last: int | None,
    equivalent_iterations: bool,
    presets: Path | None,
    steps: list[int] | None,
    precision: str | None,
    weights: str,
    refine: bool | None,
    device: str | None,
) -> None:
    """Compare methods on the pairs of pictures in FOLDER.

    It measures how much style is transferred and how much structure is preserved, time and memory.

    A pair is content01.png and style01.png, optionally with content01_mask.png and
    style01_mask.png. OUTPUT receives index.html (all pictures side by side), report.json,
    results.csv and trade-off.png. Finished results are not computed again: the same command
    continues an interrupted run.
    """
    with sentences():
        if equivalent_iterations and names:
            raise ValueError("--method must be given without --equivalent-iterations")
        if equivalent_iterations and steps and len(steps) > 1:
            raise ValueError("--steps must be a single number with --equivalent-iterations")
        if equivalent_iterations and precision:
            raise ValueError("--precision must be given without --equivalent-iterations")
        if presets and not equivalent_iterations:
            raise ValueError("--presets must be given with --equivalent-iterations")
        if last and not style:
            raise ValueError("--last must be given with --style")
        pairs = _select_pairs(folder, style, last, only)
        device = device_named(device)
        options: dict[str, Any] = {"size": size, "device": device, "log": click.echo}
        metadata = _metadata(folder, len(pairs), size, steps, precision, weights, refine, device)
        output.mkdir(parents=True, exist_ok=True)
        if equivalent_iterations:
            from ..evaluation import iterations

            result = iterations.equivalent_iterations(
                pairs,
                output,
                weights=weights,
                refine=bool(refine),
                presets=presets,
                steps=steps[0] if steps else None,
                metadata=metadata,
                **options,
            )
            _show_iterations(result)
        else:
            from ..evaluation import compare, methods, report

            compared = methods.select_methods(
                names or methods.DEFAULT,
                weights=weights,
                refine=refine,
                steps=steps,
                precision=precision,
                device=device,
            )
            rows, notes = compare.compare_methods(pairs, compared, output, **options)
            medians = report.write_report(rows, notes, compared, output, metadata)
            click.echo(_table(medians))
            for note in (*notes, f"pictures and intervals: {output / 'index.html'}"):
                click.echo(note)


def _select_pairs(
    folder: Path, style: tuple[Path, ...], last: int | None, only: tuple[str, ...]
) -> list[PairFiles]:
    """The pairs in a folder, or photos with styles in turn, restricted to the names in ``only``."""
    from ..evaluation.pairs import find_pairs, pair_up

    pairs = pair_up(folder, style, last) if style else find_pairs(folder)
    names = [pair.name for pair in pairs]
    for name in only:
        if name not in names:
            raise ValueError(f"--only must be one of {', '.join(names)}, got {name!r}")
    return [pair for pair in pairs if not only or pair.name in only]


def _metadata(
    folder: Path,
    pairs: int,
    size: int | None,
    steps: list[int] | None,
    precision: str | None,
    weights: str,
    refine: bool | None,
    device: str,
) -> dict[str, Any]:
    """The settings of the run, for the report; paths are reduced to names."""
    import torch

    from .. import __version__

    return {
        "fastfcs": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "folder": folder.resolve().name,
        "pairs": pairs,
        "size": size or "full",
        "steps": steps or "default",
        "precision": precision or "float32",
        "weights": Path(weights).stem,
        "refine": "default" if refine is None else refine,
    }


def _table(medians: Medians) -> str:
    """The medians as aligned text, one line per method."""
    from ..evaluation.metrics import METRICS

    columns = [key for key in METRICS if any(key in row for row in medians.values())]
    lines = [("medians", *columns)]
    for method, row in medians.items():
        lines.append((method, *(f"{row[k].value:.3g}" if k in row else "-" for k in columns)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )


def _show_iterations(report: dict[str, Any]) -> None:
    worth = report["equivalent iterations"]
    click.echo(
        f"the network is worth {worth['value']:.3g} iterations per scale "
        f"(median of {worth['pairs']} pairs, 95 % interval {worth['low']:g} to {worth['high']:g})"
    )
    if report["not reached"]:
        most = report["iterations per scale"][-1]
        click.echo(
            f"this is a lower bound: for {report['not reached']} pairs, {most} iterations per "
            "scale did not reach the network's loss"
        )
