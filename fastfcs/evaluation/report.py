"""The report of a comparison: CSV, JSON, a plot and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic, write_text
from .methods import Method
from .metrics import METRICS
from .page import render_page
from .rows import Row
from .summary import Medians, medians


def write_report(
    rows: Sequence[Row],
    notes: Sequence[str],
    methods: Sequence[Method],
    out: Path,
    metadata: Mapping[str, Any],
) -> Medians:
    """Write results.csv, report.json, index.html and trade-off.png.

    Args:
        rows: the results, from `fastfcs.evaluation.compare.compare_methods`.
        notes: the notes from the same function.
        methods: the methods compared.
        out: the folder that `compare_methods` filled.
        metadata: the run's settings, by name.

    Returns:
        The medians over the pairs.

    Raises:
        RuntimeError: matplotlib is not installed; everything except the plot has been written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.evaluation.methods import Method
        >>> from fastfcs.evaluation.report import write_report
        >>> from fastfcs.evaluation.rows import Row
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> numbers = {"ratio": 1, "region_gram": None, "regions": {}, "lpips": None}
        >>> numbers |= {"multiscale_gram": 0.6, "scales": [0.5, 0.7]}
        >>> numbers |= {"seconds": None, "megabytes": None, "gram": 0.5, "ssim": 1, "energy": 0}
        >>> row = Row("01", "content", "", 64, 48, None, **numbers)
        >>> method = Method("content", lambda pair: pair.content)
        >>> write_report([row], [], [method], out, {"device": "cpu"})["content"]["gram"].value
        0.5
        >>> sorted(path.name for path in out.iterdir())
        ['index.html', 'report.json', 'results.csv', 'trade-off.png']
    """
    summary = medians(rows)
    write_text(out / "results.csv", _csv(rows))
    values = {
        method: {name: median._asdict() for name, median in its_medians.items()}
        for method, its_medians in summary.items()
    }
    report = {
        **metadata,
        "notes": list(notes),
        "medians": values,
        "rows": [row.to_json() for row in rows],
    }
    write_text(out / "report.json", json.dumps(report, indent=1))
    write_text(out / "index.html", render_page(rows, notes, summary, metadata))
    _plot(summary, methods, out / "trade-off.png")
    return summary


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    columns = ("pair", "method", *METRICS, "regions", "width", "height")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        regions = "; ".join(f"{colour} {d:.6g}" for colour, d in row.regions.items())
        writer.writerow({**row.to_json(), "regions": regions})
    return text.getvalue().rstrip("\n")


def _plot(summary: Medians, methods: Sequence[Method], path: Path) -> None:
    """Plot style against structure, with a line through the cutoffs of each family."""
    figure, axes = new_figure()
    families: dict[str, list[Method]] = {}
    for method in methods:
        if "ratio" in summary[method.name]:  # absent if every content is its own style
            families.setdefault(method.family or method.name, []).append(method)
    for family, members in families.items():
        members = sorted(members, key=lambda m: m.cutoff or 0)
        x, x_low, x_high, _ = np.array([summary[m.name]["ssim"] for m in members]).T
        y, y_low, y_high, _ = np.array([summary[m.name]["ratio"] for m in members]).T
        bars = {"xerr": (x - x_low, x_high - x), "yerr": (y - y_low, y_high - y)}
        axes.errorbar(x, y, fmt="o-", label=family, elinewidth=0.6, capsize=2, **bars)
        for method, a, b in zip(members, x, y, strict=True):
            if method.cutoff is not None:
                axes.annotate(f"{method.cutoff:g}", (a, b), (4, 4), textcoords="offset points")
    axes.set_xlabel("structure preserved: SSIM of gradients with the content")
    axes.set_ylabel("style missing: Gram distance relative to the unchanged content")
    axes.set_title("Medians over pairs with 95 % bootstrap intervals; labels are cutoffs")
    axes.set_ylim(bottom=0)
    axes.legend()
    save_figure(figure, path)


def new_figure() -> tuple[Any, Any]:
    """Create a matplotlib figure.

    Returns:
        The figure and its axes.

    Raises:
        RuntimeError: matplotlib is not installed.

    Examples:
        >>> from fastfcs.evaluation.report import new_figure
        >>> figure, axes = new_figure()
        >>> axes.get_xgridlines()[0].get_alpha()
        0.3
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("plots need matplotlib: `pip install matplotlib`") from error
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as a PNG, atomically.

    Args:
        figure: the figure.
        path: the file to write.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.evaluation.report import new_figure, save_figure
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "empty.png"
        >>> save_figure(new_figure()[0], path)
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
