"""The parts of the page that Gradio does not have, each an .html and a .js file.

Their values are what they show; the scripts tell how they look. What visitors do with them are
events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

_FOLDER = Path(__file__).parent


def part(name: str, value: dict[str, Any], elem_id: str | None = None) -> gr.HTML:
    """Make a part of the page.

    Args:
        name: of its files: "drop", "styles", "compare", "strip", "regions", "command",
            "message" or "photos".
        value: what it shows at first.
        elem_id: of its element, if "ff-" and its name is not enough.

    Returns:
        The component.

    Examples:
        >>> import gradio as gr
        >>> from fastfcs.app.parts import part
        >>> with gr.Blocks():
        ...     strip = part("strip", {"results": [], "current": None})
        >>> strip.value["results"]
        []
    """
    return gr.HTML(
        value,
        html_template=source(f"{name}.html"),
        js_on_load=source("shared.js") + source(f"{name}.js"),
        apply_default_css=False,
        elem_id=elem_id or f"ff-{name}",
    )


def source(name: str) -> str:
    """Read one of the page's files.

    Args:
        name: of the file.

    Returns:
        Its text.

    Examples:
        >>> from fastfcs.app.parts import source
        >>> source("strip.html")[:4]
        '<div'
    """
    return (_FOLDER / name).read_text(encoding="utf-8")
