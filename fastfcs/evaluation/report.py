"""What came of a comparison: medians with their intervals, CSV, JSON, a plot, a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .compare import Row, write_text
from .methods import Method
from .metrics import METRICS
from .page import page

_RESAMPLES = 10_000


class Median(NamedTuple):
    """A median over pairs, its 95 % bootstrap interval, and the number of pairs."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def median(values: Sequence[float]) -> Median:
    """The median of at least one value, with the percentile bootstrap's interval (Efron 1979)."""
    found = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(found), size=(_RESAMPLES, len(found)))
    low, high = np.quantile(np.median(found[drawn], axis=1), [0.025, 0.975])
    return Median(float(np.median(found)), float(low), float(high), len(found))


Medians = dict[str, dict[str, Median]]
"""By method, then by metric; a metric without values is left out."""


def medians(rows: Iterable[Row]) -> Medians:
    """Medians over the pairs."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    found: Medians = {}
    for method, own in by_method.items():
        values = {key: [row[key] for row in own if row[key] is not None] for key in METRICS}
        found[method] = {key: median(v) for key, v in values.items() if v}
    return found


def write_report(
    rows: Sequence[Row],
    notes: Sequence[str],
    methods: Sequence[Method],
    out: Path,
    facts: dict[str, Any],
) -> Medians:
    """Write results.csv, report.json, trade-off.png and index.html into ``out``.

    Args:
        facts: on the run, for the report.

    Raises:
        RuntimeError: matplotlib is not installed; all but the plot is written then.
    """
    found = medians(rows)
    write_text(out / "results.csv", _csv(rows))
    summary = {m: {k: v._asdict() for k, v in each.items()} for m, each in found.items()}
    report = {**facts, "notes": list(notes), "medians": summary, "rows": list(rows)}
    write_text(out / "report.json", json.dumps(report, indent=1))
    write_text(out / "index.html", page(rows, notes, found, facts))
    plot(found, methods, out / "trade-off.png")
    return found


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    columns = ("pair", "method", *METRICS, "regions", "width", "height")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        regions = "; ".join(f"{colour} {d:.6g}" for colour, d in row["regions"].items())
        writer.writerow({**row, "regions": regions})
    return text.getvalue().rstrip("\n")


def plot(found: Medians, methods: Sequence[Method], path: Path) -> None:
    """Style against structure: medians, intervals, and a line through each family of cut-offs."""
    figure, axes = new_figure()
    families: dict[str, list[Method]] = {}
    for method in methods:
        if "ratio" in found[method.name]:  # not where every style is its content
            families.setdefault(method.family or method.name, []).append(method)
    for family, members in families.items():
        members = sorted(members, key=lambda m: m.cutoff or 0)
        x, x_low, x_high, _ = np.array([found[m.name]["ssim"] for m in members]).T
        y, y_low, y_high, _ = np.array([found[m.name]["ratio"] for m in members]).T
        bars = {"xerr": (x - x_low, x_high - x), "yerr": (y - y_low, y_high - y)}
        axes.errorbar(x, y, fmt="o-", label=family, elinewidth=0.6, capsize=2, **bars)
        for method, a, b in zip(members, x, y, strict=True):
            if method.cutoff is not None:
                axes.annotate(f"{method.cutoff:g}", (a, b), (4, 4), textcoords="offset points")
    axes.set_xlabel("structure kept: SSIM of gradients with the content")
    axes.set_ylabel("style missing: Gram distance over the unchanged content's")
    axes.set_title("Medians over the pairs, 95 % bootstrap intervals; numbers are cut-offs")
    axes.set_ylim(bottom=0)
    axes.legend()
    save_figure(figure, path)


def new_figure() -> tuple[Any, Any]:
    """A figure and its axes.

    Raises:
        RuntimeError: matplotlib is not installed.
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
    """Write a PNG, whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)
