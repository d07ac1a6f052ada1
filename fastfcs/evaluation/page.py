"""An HTML page that shows all results side by side, opened from disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from .metrics import METRICS
from .rows import Row, file_name
from .summary import Median, Medians


def render_page(
    rows: Sequence[Row], notes: Iterable[str], medians: Medians, metadata: Mapping[str, Any]
) -> str:
    """Render the page.

    Args:
        rows: the results.
        notes: remarks on the results, see `fastfcs.evaluation.compare.compare_methods`.
        medians: their medians.
        metadata: the run's settings, by name.

    Returns:
        HTML. Pictures are linked relative to the folder that `compare_methods` filled.

    Examples:
        >>> from fastfcs.evaluation.page import render_page
        >>> html = render_page([], ["LPIPS is left out"], {}, {"device": "cpu"})
        >>> "device: cpu" in html, "<li>LPIPS is left out</li>" in html
        (True, True)
    """
    parts = {
        "metadata": escape(", ".join(f"{name}: {value}" for name, value in metadata.items())),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in notes),
        "medians": _table(medians),
        "pairs": "\n".join(_section(pair, group) for pair, group in _by_pair(rows).items()),
    }
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        page = page.replace(f"<!-- {name} -->", part)
    return page


def _by_pair(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.pair, []).append(row)
    return groups


def _table(medians: Medians) -> str:
    columns = [key for key in METRICS if any(key in values for values in medians.values())]
    head = "".join(f"<th>{escape(METRICS[key])}</th>" for key in columns)
    body = "".join(
        f"<tr><th>{escape(method)}</th>{''.join(_cell(values.get(key)) for key in columns)}</tr>"
        for method, values in medians.items()
    )
    return f"<tr><th>medians</th>{head}</tr>{body}"


def _cell(median: Median | None) -> str:
    if median is None:
        return "<td>–</td>"
    title = f"95 % bootstrap interval over {median.pairs} pairs"
    return (
        f'<td title="{title}">{median.value:.3g} '
        f"<small>{median.low:.3g} – {median.high:.3g}</small></td>"
    )


def _section(pair: str, rows: Sequence[Row]) -> str:
    figures = [_figure(pair, "style", "")]
    if all(row.method != "content" for row in rows):
        figures.append(_figure(pair, "content", ""))
    for row in rows:
        figures.append(_figure(pair, row.method, row.summary()))
    return f"<h2>{escape(pair)}</h2>\n<section>{''.join(figures)}</section>"


def _figure(pair: str, method: str, caption: str) -> str:
    source = quote(f"pairs/{pair}/{file_name(method)}.png")
    return (
        f'<figure><img loading="lazy" src="{source}" alt="{escape(method)}">'
        f"<figcaption><b>{escape(method)}</b> {caption}</figcaption></figure>"
    )
