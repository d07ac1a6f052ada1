"""fastfcs evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import sentences
from .options import DEVICE, FOLDER, PATH, PRECISION, REFINE, STEPS, device_named

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
    help="content, artistic, photoreal[:CUTOFF,...], regional[:...], gatys, luan, "
    "projected[:...], or "
    "NAME='FOLDER/x*.png', somebody's results, * standing for the pair's name; repeatable.",
)
@click.option("--size", type=click.IntRange(min=16), help="Reduce pictures to this longer side.")
@click.option("--only", multiple=True, help="Name of a pair; repeatable.")
@click.option(
    "--style",
    type=FOLDER,
    multiple=True,
    help="Styles for the pictures of FOLDER, which are not pairs then; taken in turn; repeatable.",
)
@click.option("--last", type=click.IntRange(min=1), help="With --style: the last so many photos.")
@click.option(
    "--equivalent-iterations",
    is_flag=True,
    help="How many iterations of descent the network is worth, instead of comparing methods.",
)
@click.option("--steps", type=STEPS, help="Of the iterative solvers; several: coarse to fine.")
@PRECISION
@click.option(
    "--presets",
    type=FOLDER,
    help="With --equivalent-iterations: what tune made of each style, under its name.",
)
@click.option("--weights", default="universal", show_default=True, help="Name or file.")
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
    refine: bool,
    device: str | None,
) -> None:
    """Compare methods on the pairs of a FOLDER: style taken over, structure kept, time, memory.

    A pair is content01.png and style01.png, and perhaps content01_mask.png and style01_mask.png.
    OUTPUT gets index.html (all pictures side by side), report.json, results.csv and trade-off.png.
    What is done is never done again: an interrupted run goes on with the same command.
    """
    with sentences():
        if equivalent_iterations and names:
            raise ValueError("--method does not go with --equivalent-iterations")
        if equivalent_iterations and steps and len(steps) > 1:
            raise ValueError("--steps must be one number with --equivalent-iterations")
        if equivalent_iterations and precision:
            raise ValueError("--precision does not go with --equivalent-iterations")
        if presets and not equivalent_iterations:
            raise ValueError("--presets belongs to --equivalent-iterations, which was not given")
        if last and not style:
            raise ValueError("--last belongs to --style, which was not given")
        chosen = _chosen(folder, style, last, only)
        device = device_named(device)
        options: dict[str, Any] = {"size": size, "device": device, "log": click.echo}
        metadata = _metadata(folder, len(chosen), size, steps, precision, weights, refine, device)
        output.mkdir(parents=True, exist_ok=True)
        if equivalent_iterations:
            from ..evaluation import iterations

            found = iterations.equivalent_iterations(
                chosen,
                output,
                weights=weights,
                refine=refine,
                presets=presets,
                steps=steps[0] if steps else None,
                metadata=metadata,
                **options,
            )
            _show_iterations(found)
        else:
            from ..evaluation import compare, methods, report

            compared = methods.select_methods(
                names or (methods.PAINTED if refine else methods.DEFAULT),
                weights=weights,
                refine=refine,
                steps=steps,
                precision=precision,
                device=device,
            )
            rows, notes = compare.compare_methods(chosen, compared, output, **options)
            medians = report.write_report(rows, notes, compared, output, metadata)
            click.echo(_table(medians))
            for note in (*notes, f"pictures and intervals: {output / 'index.html'}"):
                click.echo(note)


def _chosen(
    folder: Path, style: tuple[Path, ...], last: int | None, only: tuple[str, ...]
) -> list[PairFiles]:
    from ..evaluation.pairs import find_pairs, pair_up

    found = pair_up(folder, style, last) if style else find_pairs(folder)
    names = [pair.name for pair in found]
    for name in only:
        if name not in names:
            raise ValueError(f"--only must be one of {', '.join(names)}, not {name!r}")
    return [pair for pair in found if not only or pair.name in only]


def _metadata(
    folder: Path,
    pairs: int,
    size: int | None,
    steps: list[int] | None,
    precision: str | None,
    weights: str,
    refine: bool,
    device: str,
) -> dict[str, Any]:
    """On the run, for the report; no private path."""
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
        "refine": refine,
    }


def _table(medians: Medians) -> str:
    from ..evaluation.metrics import METRICS

    shown = [key for key in METRICS if any(key in each for each in medians.values())]
    lines = [("medians", *shown)]
    for method, each in medians.items():
        lines.append((method, *(f"{each[k].value:.3g}" if k in each else "-" for k in shown)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )


def _show_iterations(found: dict[str, Any]) -> None:
    worth = found["equivalent iterations"]
    click.echo(
        f"{found['updates']} updates of the network are worth {worth['value']:g} iterations "
        f"(median of {worth['pairs']} pairs, 95 % interval {worth['low']:g} to {worth['high']:g})"
    )
    if found["not reached"]:
        click.echo(
            f"at least: {found['steps']} iterations did not do for {found['not reached']} pairs"
        )
