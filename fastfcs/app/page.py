"""The page: its layout, and what happens when a visitor does something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from ..errors import BAD_INPUT
from ..stylizer import Stylizer
from .items import Preview, Result
from .parts import part, source
from .settings import KEPT, Settings
from .turns import start
from .views import (
    View,
    compare_view,
    message,
    photo_view,
    photos_view,
    progress,
    regions_view,
    result_view,
    strip_view,
    styles_view,
)
from .visit import CancelledError, Report, Upload, Visit
from .visits import STAY, Visits

T = TypeVar("T")

_PHOTOGRAPH, _PAINTING = "Photograph", "Painting"
_FORMATS = {"As the photo": None, "PNG": ".png", "TIFF, 16 bits": ".tiff"}
_BRUSH = "Stroke size relative to the reference's."
_NO_BRUSH = "Presets have a stroke size of their own."
_FINER = "Closer to the style, but slower. Photographs are finer by default."
_SECONDS = 0.25  # between reports of progress
_QUIET: Any = {"show_progress": "hidden", "api_visibility": "private"}
# Events in quick succession all count; by default, Gradio drops those that come too early.
_EVERY: Any = {**_QUIET, "trigger_mode": "multiple"}
# Who computes is decided by `Turns`; Gradio may let this many wait for it.
_SHORT: Any = {**_QUIET, "concurrency_id": "short", "concurrency_limit": 8}
_LONG: Any = {**_QUIET, "concurrency_id": "long", "concurrency_limit": 16}
_FORGED = (LookupError, TypeError, AttributeError)  # what events raise that no page has sent
_FOCUS = source("focus.js")
_CLICK = "() => setTimeout(() => document.querySelector('#ff-file').click(), 100)"


def build(stylizer: Stylizer) -> gr.Blocks:
    """Make the page.

    Args:
        stylizer: whose network, device, precision and memory are used, but neither its style nor
            its other settings. It has a refinement: make it with ``refine=True``.

    Returns:
        The page. Launch it with ``max_file_size=fastfcs.app.MAX_BYTES``, or mount it into an app
        of FastAPI with `gradio.mount_gradio_app`.

    Raises:
        ValueError: the stylizer has no refinement.

    Examples:
        >>> from fastfcs import Stylizer
        >>> from fastfcs.app import build
        >>> build(Stylizer(weights="tiny", refine=True)).title
        'fastfcs'
    """
    _, vgg_widths = stylizer.solver.widths
    if not vgg_widths:
        raise ValueError("stylizer must have a refinement (refine=True), got one without")
    return Page(Visits(stylizer)).blocks


class Page:
    """The layout and the events.

    Args:
        visits: the visitors.

    Examples:
        >>> from fastfcs import Stylizer
        >>> from fastfcs.app.page import Page
        >>> from fastfcs.app.visits import Visits
        >>> Page(Visits(Stylizer(weights="tiny", refine=True))).blocks.title
        'fastfcs'
    """

    def __init__(self, visits: Visits) -> None:
        self.visits = visits
        self.blocks = gr.Blocks(title="fastfcs", analytics_enabled=False, delete_cache=(STAY, STAY))
        with self.blocks:
            gr.HTML(f"<style>{source('page.css')}</style>{source('header.html')}", elem_id="ff-top")
            self._file = gr.DownloadButton("Download", visible="hidden", elem_id="ff-file")
            with gr.Tabs(elem_id="ff-tabs"):
                with gr.Tab("One photo"), gr.Row(elem_id="ff-desk"):
                    self._lay_out_pictures()
                    self._lay_out_result()
                    self._lay_out_controls()
                with gr.Tab("Many photos"):
                    self._lay_out_batch()
            self._connect()
            self._connect_batch()

    def _lay_out_pictures(self) -> None:
        with gr.Column(elem_id="ff-pictures", min_width=0):
            gr.HTML("<h2>Photo</h2>")
            self._photo = part("drop", photo_view())
            gr.HTML("<h2>Style</h2>")
            self._styles = part("styles", styles_view())

    def _lay_out_result(self) -> None:
        with gr.Column(elem_id="ff-result", min_width=0):
            self._compare = part("compare", compare_view(None))
            self._notes = part("message", message(), "ff-notes")
            self._message = part("message", message(), "ff-message")
            with gr.Row(elem_classes="ff-job"):
                self._make = gr.Button("Restyle at full size", variant="primary", elem_id="ff-make")
                self._stop = gr.Button("Cancel", visible=False)
            with gr.Row(elem_id="ff-save", visible=False) as self._saving:
                formats = list(_FORMATS)
                self._format = gr.Radio(formats, value=formats[0], label="Format of the file")
                self._save = gr.Button("Download the picture", variant="primary")
            self._lut = gr.Button("Download the change of colours as a LUT (.cube)", visible=False)
            self._strip = part("strip", strip_view())

    def _lay_out_controls(self) -> None:
        with gr.Column(elem_id="ff-controls", min_width=0):
            gr.HTML("<h2>Controls</h2>")
            kinds = _PHOTOGRAPH, _PAINTING
            self._kind = gr.Radio(kinds, value=_PHOTOGRAPH, label="Make it a")
            balance = gr.Slider(0, 1, 0.5, step=0.01, label="Balance", elem_id="ff-balance")
            strength = gr.Slider(0, 1, 1, step=0.01, label="Strength")
            self._brush = gr.Slider(
                0.25, 4, 1, step=0.25, label="Brush", info=_BRUSH, visible=False
            )
            keep = gr.Radio(list(KEPT), value="Nothing", label="Keep from the photo")
            self._finer = gr.Checkbox(
                True,
                label="Finer",
                info="Closer to the style, but slower; the default for photographs.",
            )
            self._controls: list[Any] = [
                self._kind,
                balance,
                strength,
                self._brush,
                keep,
                self._finer,
            ]
            with gr.Accordion("Regions", open=False):
                self._regions = part("regions", regions_view())
            with gr.Accordion("Command line", open=False):
                self._command = part("command", {})

    def _lay_out_batch(self) -> None:
        with gr.Column(elem_id="ff-batch", min_width=0):
            gr.HTML(source("batch.html"))
            self._photos = part("photos", photos_view())
            self._batch_message = part("message", message(), "ff-batch-message")
            with gr.Row(elem_classes="ff-job"):
                self._make_all = gr.Button(
                    "Restyle all photos", variant="primary", elem_id="ff-make-all"
                )
                self._stop_all = gr.Button("Cancel", visible=False)
            self._zip = gr.Button(
                "Download the zip file", variant="primary", visible=False, elem_id="ff-zip"
            )

    def _connect(self) -> None:
        shown = [self._compare, self._strip, self._saving, self._lut, self._notes, self._command]
        preview: Any = {
            "fn": self._preview,
            "inputs": self._controls,
            "outputs": [*shown, self._message],
            "js": source("busy.js"),
            "trigger_mode": "always_last",
            **_SHORT,
        }
        take = self._take_photo, self._photo, [self._photo, self._regions]
        self._photo.upload(*take, **_EVERY).then(**preview)
        pictures = [self._styles, self._regions, self._brush]
        self._styles.upload(self._take_styles, self._styles, pictures, **_EVERY).then(**preview)
        self._styles.select(self._choose, None, pictures, **_EVERY).then(**preview)
        self._styles.delete(self._remove, None, pictures, **_EVERY).then(**preview)
        self._styles.clear(self._keep_last, None, pictures, **_EVERY).then(**preview)
        self._styles.release(self._weigh, None, pictures, **_EVERY).then(**preview)
        self._regions.edit(self._paint, None, self._message, **_EVERY).then(**preview)
        turned = [self._finer, self._brush]
        self._kind.input(self._turn, self._kind, turned, **_EVERY).then(**preview)
        gr.on([control.input for control in self._controls[1:]], **preview)

        buttons = [self._message, self._make, self._stop]
        self._make.click(self._begin, None, buttons, queue=False, **_QUIET).then(
            js=_FOCUS, **_QUIET
        ).then(self._restyle, self._controls, [*shown, *buttons], **_LONG).then(js=_FOCUS, **_QUIET)
        self._stop.click(self._cancel, None, self._stop, queue=False, **_QUIET)
        self._strip.select(self._show_again, None, [*shown, *self._controls], **_EVERY)
        saved = [self._file, self._message]
        self._save.click(self._download, self._format, saved, **_SHORT).then(js=_CLICK, **_QUIET)
        self._lut.click(self._look, self._controls, saved, **_SHORT).then(js=_CLICK, **_QUIET)
        self.blocks.load(js=source("page.js"))
        self.blocks.unload(self._leave)

    def _connect_batch(self) -> None:
        self._photos.upload(self._add_photos, self._photos, self._photos, **_EVERY)
        self._photos.clear(self._clear_photos, None, self._photos, **_EVERY)
        buttons = [self._batch_message, self._make_all, self._stop_all]
        self._make_all.click(self._begin_batch, None, buttons, queue=False, **_QUIET).then(
            js=_FOCUS, **_QUIET
        ).then(self._restyle_batch, self._controls, [self._zip, *buttons], **_LONG).then(
            js=_FOCUS, **_QUIET
        )
        self._stop_all.click(self._cancel_batch, None, self._stop_all, queue=False, **_QUIET)
        saved = [self._file, self._batch_message]
        self._zip.click(self._download_batch, None, saved, **_SHORT).then(js=_CLICK, **_QUIET)

    def _visit(self, request: gr.Request) -> Visit:
        return self.visits.of(request.session_hash or "")

    def _leave(self, request: gr.Request) -> None:
        self.visits.leave(request.session_hash or "")

    def _take_photo(self, request: gr.Request, view: View) -> tuple[View, View]:
        visit = self._visit(request)
        error = _take(visit, view, lambda uploads: visit.take_photo(uploads[0]))
        return photo_view(visit, error), regions_view(visit)

    def _take_styles(self, request: gr.Request, view: View) -> tuple[Any, ...]:
        visit = self._visit(request)
        error = _take(visit, view, lambda uploads: visit.take_styles(uploads, view["blend"]))
        return _chosen(visit, error)

    def _choose(self, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        visit = self._visit(request)
        error = _attempt(visit, lambda: visit.choose(event.name, event.blend))
        return _chosen(visit, error)

    def _remove(self, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        visit = self._visit(request)
        return _chosen(visit, _attempt(visit, lambda: visit.remove(event.index)))

    def _keep_last(self, request: gr.Request) -> tuple[Any, ...]:
        visit = self._visit(request)
        return _chosen(visit, _attempt(visit, visit.keep_last))

    def _weigh(self, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        visit = self._visit(request)
        error = _attempt(visit, lambda: visit.weigh(event.index, event.weight))
        return _chosen(visit, error)

    def _paint(self, request: gr.Request, event: gr.EventData) -> View:
        visit = self._visit(request)
        return _said(_attempt(visit, lambda: visit.paint(event.masks)))

    def _turn(self, kind: str) -> tuple[Any, ...]:
        is_photograph = kind == _PHOTOGRAPH
        return gr.Checkbox(value=is_photograph), gr.Slider(visible=not is_photograph)

    def _preview(self, request: gr.Request, *controls: Any) -> Iterator[tuple[Any, ...]]:
        visit, settings = self._visit(request), _settings(*controls)
        visit.shown = None
        error = ""
        choice = visit.choice
        if choice.photo is not None and choice.styles:
            try:
                for preview in visit.previews(settings):
                    if visit.shown is not None:  # it has been overtaken by a result
                        return
                    yield _previewed(visit, settings, preview)
                return
            except BAD_INPUT as problem:
                error = visit.sentence(problem)
        yield _previewed(visit, settings, Preview(""), error)

    def _begin(self, request: gr.Request) -> tuple[Any, ...]:
        return _started(self._visit(request), "picture")

    def _cancel(self, request: gr.Request) -> Any:
        self._visit(request).cancelled["picture"].set()
        return gr.Button(interactive=False)

    def _restyle(self, request: gr.Request, *controls: Any) -> Iterator[tuple[Any, ...]]:
        visit, settings = self._visit(request), _settings(*controls)
        began, result, said, same = time.monotonic(), None, message(), gr.skip()
        buttons = gr.Button(interactive=True), gr.Button(visible=False)
        for said, made in _run(visit, "picture", partial(visit.restyle, settings)):
            result = made
            yield *(same,) * 6, said, same, same
        if result is None:
            yield *(same,) * 6, said, *buttons  # once more: quick updates may be lost
            return
        width, height = result.photo.size
        done = f"{width} × {height} pixels in {time.monotonic() - began:.1f} s."
        if visit.choice != result.choice:  # other pictures are shown by now
            done = f"{result.title} is among the recent results: {done}"
            yield same, strip_view(visit), *(same,) * 4, message(notes=[done]), *buttons
            return
        visit.shown = result
        yield *_shown(visit, result), message(notes=[done]), *buttons

    def _show_again(self, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        visit = self._visit(request)
        try:
            visit.shown = visit.results[event.index]
        except _FORGED:
            return (gr.skip(),) * (6 + len(self._controls))
        return *_shown(visit, visit.shown), *_positions(visit.shown.settings)

    def _download(self, request: gr.Request, format: str) -> tuple[Any, View]:
        visit = self._visit(request)
        if visit.shown is None:
            return None, message(["Restyle the photo first."])
        try:
            download = partial(visit.download, visit.shown, _FORMATS[format])
            return start(download).result(), message()
        except BAD_INPUT as error:
            return None, message([visit.sentence(error)])

    def _look(self, request: gr.Request, *controls: Any) -> tuple[Any, View]:
        visit = self._visit(request)
        try:
            path, difference = visit.look(_settings(*controls))
        except BAD_INPUT as error:
            return None, message([visit.sentence(error)])
        note = f"The LUT differs from the restyled photo by a CIEDE2000 of {difference:.1f}"
        return path, message(notes=[f"{note} on average; 1 is just noticeable, 5 is plain to see."])

    def _add_photos(self, request: gr.Request, view: View) -> View:
        visit = self._visit(request)
        return photos_view(visit, _take(visit, view, visit.add_photos))

    def _clear_photos(self, request: gr.Request) -> View:
        visit = self._visit(request)
        visit.clear_photos()
        return photos_view(visit)

    def _begin_batch(self, request: gr.Request) -> tuple[Any, ...]:
        return _started(self._visit(request), "batch")

    def _cancel_batch(self, request: gr.Request) -> Any:
        self._visit(request).cancelled["batch"].set()
        return gr.Button(interactive=False)

    def _restyle_batch(self, request: gr.Request, *controls: Any) -> Iterator[tuple[Any, ...]]:
        visit, settings = self._visit(request), _settings(*controls)
        visit.batch, said, same = None, message(), gr.skip()
        yield gr.Button(visible=False), same, same, same
        for said, batch in _run(visit, "batch", partial(visit.restyle_batch, settings)):
            visit.batch = batch
            yield same, said, same, same
        buttons = gr.Button(interactive=True), gr.Button(visible=False)
        if visit.batch is None:
            yield same, said, *buttons
            return
        errors = visit.batch.errors
        made = visit.batch.photos - len(errors)
        done = f"{made} of {visit.batch.photos} photos are in the zip file."
        yield gr.Button(visible=True), message(errors, [done]), *buttons

    def _download_batch(self, request: gr.Request) -> tuple[Any, Any]:
        visit = self._visit(request)
        if visit.batch is None:
            return None, message(["Restyle the photos first."])
        return visit.link(visit.batch.archive), gr.skip()


def _said(error: str) -> View:
    return message([error] if error else [])


def _started(visit: Visit, job: str) -> tuple[Any, ...]:
    visit.cancelled[job].clear()
    waiting = message(notes=["Waiting for its turn …"])
    return waiting, gr.Button(interactive=False), gr.Button(visible=True, interactive=True)


def _previewed(
    visit: Visit, settings: Settings, preview: Preview, error: str = ""
) -> tuple[Any, ...]:
    is_photograph = bool(preview.url) and settings.photograph
    return (
        compare_view(visit.choice.photo, *preview),
        strip_view(visit),
        gr.Row(visible=False),
        gr.Button(visible=is_photograph and visit.choice.masks is None),
        message([error] if error else [], visit.notes()),
        {"command": visit.command(settings)},
        gr.skip() if visit.running else message(),
    )


def _shown(visit: Visit, result: Result) -> tuple[Any, ...]:
    return (
        result_view(result),
        strip_view(visit),
        gr.Row(visible=True),
        gr.Button(visible=result.settings.photograph and result.choice.masks is None),
        message(notes=result.photo.picture.notes),
        {"command": result.choice.command(result.settings)},
    )


def _settings(
    kind: str, balance: float, strength: float, brush: float, keep: str, finer: bool
) -> Settings:
    photograph = kind == _PHOTOGRAPH
    return Settings(photograph, strength, balance, brush, KEPT[keep], finer)


def _positions(settings: Settings) -> tuple[Any, ...]:
    """The controls at these settings."""
    kind = _PHOTOGRAPH if settings.photograph else _PAINTING
    brush = gr.Slider(value=settings.brush, visible=not settings.photograph)
    keep = next(name for name, kept in KEPT.items() if kept == settings.keep)
    return kind, settings.balance, settings.strength, brush, keep, settings.finer


def _uploads(view: View) -> list[Upload]:
    """The files that a part has uploaded, in Gradio's folder, each in one of its own."""
    uploads = [Upload(Path(file["path"]).resolve(), str(file["name"])) for file in view["uploads"]]
    folder = Path(get_upload_folder()).resolve()
    if not all(upload.path.parent.parent == folder for upload in uploads):
        raise ValueError("A file must have been uploaded by the page.")
    return uploads


def _take(visit: Visit, view: View, take: Callable[[list[Upload]], None]) -> str:
    """Take uploads, which are then removed, and return what is wrong with them."""

    def change() -> None:
        uploads = _uploads(view)
        try:
            take(uploads)
        finally:
            for upload in uploads:
                upload.path.unlink(missing_ok=True)

    return _attempt(visit, change)


def _attempt(visit: Visit, change: Callable[[], None]) -> str:
    """Change something, and return what is wrong with it."""
    try:
        start(change).result()
    except BAD_INPUT as error:
        return visit.sentence(error)
    except _FORGED:
        return "The page has sent what it never sends; load it again."
    return ""


def _chosen(visit: Visit, error: str) -> tuple[Any, ...]:
    is_ours = not visit.choice.has_preset
    brush = gr.Slider(interactive=is_ours, info=_BRUSH if is_ours else _NO_BRUSH)
    return styles_view(visit, error), regions_view(visit), brush


def _run(visit: Visit, name: str, job: Callable[[Report], T]) -> Iterator[tuple[View, T | None]]:
    """Run a job in a thread: messages while it runs, and its result with the last one."""
    done, began = 0.0, time.monotonic()

    def report(part: float) -> None:
        nonlocal done, began
        if not done:  # reading the picture is not counted
            began = time.monotonic()
        done += part

    future = start(partial(job, report))
    visit.running += 1
    try:
        while not wait([future], _SECONDS).done:
            yield message(progress=progress(done, time.monotonic() - began)), None
        yield message(), future.result()
    except CancelledError:
        yield message(notes=["Cancelled."]), None
    except BAD_INPUT as error:
        yield message([visit.sentence(error)]), None
    except GeneratorExit:  # the visitor has left
        visit.cancelled[name].set()
        raise
    finally:
        visit.running -= 1
