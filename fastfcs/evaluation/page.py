"""One HTML page with all pictures side by side, to be opened from the disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from .compare import Row, file_name, numbers
from .metrics import METRICS


def page(
    rows: Sequence[Row],
    notes: Iterable[str],
    medians: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> str:
    """The page; pictures are links relative to where it lies."""
    parts = {
        "facts": escape(", ".join(f"{name}: {value}" for name, value in facts.items())),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in notes),
        "medians": _table(medians),
        "pairs": "\n".join(_pair(name, own) for name, own in _by_pair(rows).items()),
    }
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text


def _by_pair(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["pair"], []).append(row)
    return found


def _table(medians: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [key for key in METRICS if any(key in each for each in medians.values())]
    head = "".join(f"<th>{escape(METRICS[key])}</th>" for key in shown)
    body = "".join(
        f"<tr><th>{escape(method)}</th>{''.join(_cell(each.get(key)) for key in shown)}</tr>"
        for method, each in medians.items()
    )
    return f"<tr><th>medians</th>{head}</tr>{body}"


def _cell(median: Any) -> str:
    if median is None:
        return "<td>–</td>"
    title = f"95 % bootstrap interval; {median.pairs} pairs"
    return (
        f'<td title="{title}">{median.value:.3g} '
        f"<small>{median.low:.3g} – {median.high:.3g}</small></td>"
    )


def _pair(name: str, rows: Sequence[Row]) -> str:
    figures = [_figure(name, "style", "")]
    if all(row["method"] != "content" for row in rows):
        figures.append(_figure(name, "content", ""))
    for row in rows:
        figures.append(_figure(name, row["method"], numbers(row)))
    return f"<h2>{escape(name)}</h2>\n<section>{''.join(figures)}</section>"


def _figure(pair: str, method: str, text: str) -> str:
    source = quote(f"pairs/{pair}/{file_name(method)}.png")
    return (
        f'<figure><img loading="lazy" src="{source}" alt="{escape(method)}">'
        f"<figcaption><b>{escape(method)}</b> {text}</figcaption></figure>"
    )
