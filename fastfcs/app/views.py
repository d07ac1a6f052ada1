"""What the parts of the page show of a visitor's work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from ..images import SUFFIXES
from ..presets import shipped, title
from ..regions import COLOURS
from .items import Choice, Photo, Result
from .uploads import MAX_BYTES, preset_thumbnail, short_title
from .visit import Visit

View = dict[str, Any]

_FILES: View = {"limit": MAX_BYTES, "accept": ",".join(["image/*", *sorted(SUFFIXES)])}

_UNPAINTED = "black"  # the colour of a mask where nothing is painted
_KNOWN = 0.05, 5  # of the work, or seconds, before which the time that is left is not known


def photo_view(visit: Visit | None = None, error: str = "") -> View:
    """Show the photo.

    Args:
        visit: the visitor's work.
        error: what was wrong with the last upload.

    Returns:
        The value of the part "drop".

    Examples:
        >>> from fastfcs.app.views import photo_view
        >>> photo_view(error="not a picture")["error"]
        'not a picture'
    """
    photo = visit.choice.photo if visit else None
    view: View = {**_FILES, "error": error}
    if photo is None:
        return view
    width, height = photo.size
    caption = f"{photo.path.name} · {width} × {height}"
    return {**view, "thumb": photo.thumbnail, "caption": caption}


def photos_view(visit: Visit | None = None, error: str = "") -> View:
    """Show the photos of a batch.

    Args:
        visit: the visitor's work.
        error: what was wrong with the last upload.

    Returns:
        The value of the part "photos".

    Examples:
        >>> from fastfcs.app.views import photos_view
        >>> photos_view()["names"]
        []
    """
    names = [path.name for path in visit.photos] if visit else []
    return {**_FILES, "names": names, "error": error}


def styles_view(visit: Visit | None = None, error: str = "") -> View:
    """Show the chosen styles, and the presets.

    Args:
        visit: the visitor's work.
        error: what was wrong with the last choice.

    Returns:
        The value of the part "styles".

    Examples:
        >>> from fastfcs.app.views import styles_view
        >>> styles_view()["presets"][0]["name"]
        'composition-vii'
    """
    choice = visit.choice if visit else Choice()
    chosen = [
        {
            "name": style.title if style.picture is None else style.name,
            "thumb": style.thumbnail,
            "weight": weight,
            "preset": style.name if style.picture is None else None,
        }
        for style, weight in zip(choice.styles, choice.weights, strict=True)
    ]
    return {**_FILES, "chosen": chosen, "presets": _presets(), "error": error}


@cache
def _presets() -> list[View]:
    return [
        {
            "name": path.stem,
            "title": title(path),
            "short": short_title(path),
            "thumb": preset_thumbnail(path.stem),
        }
        for path in shipped()
    ]


def regions_view(visit: Visit | None = None) -> View:
    """Show the pictures whose regions are painted.

    Args:
        visit: the visitor's work.

    Returns:
        The value of the part "regions".

    Examples:
        >>> from fastfcs.app.views import regions_view
        >>> [picture["title"] for picture in regions_view()["pictures"]]
        ['photo', 'reference']
    """
    colours = [
        (name, f"rgb({', '.join(str(round(255 * c)) for c in colour)})")
        for name, colour in COLOURS.items()
        if name != _UNPAINTED
    ]
    pictures: list[View] = [{"title": "photo"}, {"title": "reference"}]
    if visit is None:
        return {"colours": colours, "pictures": pictures, "round": 0}
    choice = visit.choice
    if choice.photo is not None and choice.can_paint:
        style = choice.styles[0]
        shown = choice.photo.picture, style.picture or choice.photo.picture
        thumbnails = choice.photo.thumbnail, style.thumbnail
        for view, picture, thumbnail, file in zip(
            pictures, shown, thumbnails, choice.mask_names, strict=True
        ):
            width, height = picture.size
            view |= {"thumb": thumbnail, "file": file, "width": width, "height": height}
    return {"colours": colours, "pictures": pictures, "round": visit.round}


def compare_view(photo: Photo | None, after: str = "", is_last: bool = True) -> View:
    """Show a photo, and a preview of its result.

    Args:
        photo: the photo.
        after: a data URL.
        is_last: whether no better preview follows.

    Returns:
        The value of the part "compare".

    Examples:
        >>> from fastfcs.app.views import compare_view
        >>> compare_view(None)
        {}
    """
    if photo is None:
        return {}
    width, height = photo.size
    # With the time, so that it differs from the last one, which a script may have made busy.
    shown = {"before": photo.thumbnail, "after": after, "busy": not is_last, "at": time.time()}
    return {**shown, "width": width, "height": height, "name": photo.path.name}


def result_view(result: Result) -> View:
    """Show a result.

    Args:
        result: the result.

    Returns:
        The value of the part "compare".

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs.app.items import Choice, Photo, Result
        >>> from fastfcs.app.settings import Settings
        >>> from fastfcs.app.views import result_view
        >>> from fastfcs.images import Picture
        >>> small = Picture(torch.rand(3, 16, 24))
        >>> photo = Photo(Path("a.png"), small, (240, 160), 8, ".png", "data:,")
        >>> urls = "data:,before", "data:,after", "data:,small"
        >>> result = Result(Choice(photo), photo, Settings(), *urls, Path("a.pt"))
        >>> result_view(result)["after"], result_view(result)["width"]
        ('data:,after', 240)
    """
    view = compare_view(result.photo, result.after)
    return {**view, "before": result.before}


def strip_view(visit: Visit | None = None) -> View:
    """Show the last results.

    Args:
        visit: the visitor's work.

    Returns:
        The value of the part "strip".

    Examples:
        >>> from fastfcs.app.views import strip_view
        >>> strip_view()
        {'results': [], 'current': None}
    """
    results = visit.results if visit else []
    shown = [
        {"thumb": r.thumbnail, "title": r.title, "text": r.settings.summary()} for r in results
    ]
    current = results.index(visit.shown) if visit and visit.shown in results else None
    return {"results": shown, "current": current}


def message(
    errors: Sequence[str] = (), notes: Sequence[str] = (), progress: View | None = None
) -> View:
    """Say something.

    Args:
        errors: sentences.
        notes: sentences.
        progress: how far a job is.

    Returns:
        The value of a part "message".

    Examples:
        >>> from fastfcs.app.views import message
        >>> message(notes=["Done."])
        {'errors': [], 'notes': ['Done.'], 'progress': None}
    """
    return {"errors": [*errors], "notes": [*notes], "progress": progress}


def progress(done: float, seconds: float) -> View:
    """Show how far a job is.

    Args:
        done: fraction of the work.
        seconds: since the first step.

    Returns:
        A progress for `message`.

    Examples:
        >>> from fastfcs.app.views import progress
        >>> progress(0.25, 10)["text"]
        '25 % · about 30 s left'
    """
    text = f"{100 * done:.0f} %"
    if done > 0 and seconds > 1 and (done > _KNOWN[0] or seconds > _KNOWN[1]):
        left = seconds * (1 - done) / done
        text += f" · about {left:.0f} s left" if left < 90 else f" · about {left / 60:.0f} min left"
    return {"done": done, "text": text}
