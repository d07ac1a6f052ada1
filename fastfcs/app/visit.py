"""What one visitor of the page works on: photo, styles, previews and results."""

from __future__ import annotations

import base64
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from threading import Event
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from .. import images, presets
from ..errors import BAD_INPUT, sentence
from ..images import Picture
from ..look import difference
from ..pyramid import STYLE_SIDE
from ..regions import read_regions, resize
from ..statistics import Scales
from ..steps import follow
from ..stylizer import LOOK_SIZE, Stylizer
from .items import Batch, Choice, Masks, Photo, Preview, Result, Style, shortened
from .settings import Settings
from .turns import Turns
from .uploads import data_url, deepened, preset_thumbnail, read_upload, short_title, suffix_of

PREVIEW = LOOK_SIZE
"""Longer side of a preview, in pixels."""

MAX_STYLES = 4
"""The largest number of styles that are blended."""

_SHOWN = 1600  # longer side of a result on the page, in pixels
_THUMBNAIL = 256
_RESULTS = 8  # that are kept
_CACHED = 8  # styles whose statistics are kept
_UNMASKED = 0.005  # fraction of the photo outside all regions above which a note is shown
_NAME = 200  # bytes

Report = Callable[[float], None]


class CancelledError(Exception):
    """Raised within a job that the visitor has cancelled.

    Examples:
        >>> from fastfcs.app.visit import CancelledError
        >>> raise CancelledError
        Traceback (most recent call last):
        fastfcs.app.visit.CancelledError
    """


class Upload(NamedTuple):
    """A file that a visitor has sent.

    Attributes:
        path: where it is.
        name: what the visitor calls it.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.app.visit import Upload
        >>> Upload(Path("a%22.png"), 'a".png').name
        'a".png'
    """

    path: Path
    name: str


class Visit:
    """One visitor's work.

    Args:
        stylizer: whose network is used; it has a refinement.
        turns: among all visitors.
        folder: for files, made with the first one and removed at the end.

    Attributes:
        choice: the photo and the styles.
        round: changes whenever painted regions are dropped.
        results: the last ones, the latest first.
        shown: the result that the page shows, if it is not a preview.
        photos: of the batch.
        batch: what has become of the last one.
        cancelled: whether the picture, or the batch, that is being made is no longer wanted.
        running: how many of the two are being made.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import Stylizer, images
        >>> from fastfcs.app.settings import Settings
        >>> from fastfcs.app.turns import Turns
        >>> from fastfcs.app.visit import Upload, Visit
        >>> folder = Path(tempfile.mkdtemp())
        >>> images.write(images.Picture(torch.rand(3, 48, 64)), folder / "photo.png")
        >>> images.write(images.Picture(torch.rand(3, 48, 64)), folder / "style.png")
        >>> visit = Visit(Stylizer(weights="tiny", refine=True), Turns(), folder / "visit")
        >>> visit.take_photo(Upload(folder / "photo.png", "photo.png"))
        >>> visit.take_styles([Upload(folder / "style.png", "style.png")])
        >>> [preview.is_last for preview in visit.previews(Settings())]
        [False, True]
        >>> result = visit.restyle(Settings(), lambda part: None)
        >>> visit.download(result).name
        'photo-style.png'
        >>> visit.close()
    """

    def __init__(self, stylizer: Stylizer, turns: Turns, folder: Path) -> None:
        self.choice, self.round = Choice(), 0
        self.results: list[Result] = []
        self.shown: Result | None = None
        self.photos: list[Path] = []
        self.batch: Batch | None = None
        self.cancelled = {"picture": Event(), "batch": Event()}
        self.running = 0
        self._stylizer, self._turns, self._folder = stylizer, turns, folder
        self._numbers, self._is_closed = count(), False
        self._statistics: dict[object, Scales] = {}
        self._previewed: tuple[object, Tensor] | None = None

    def cancel(self) -> None:
        """End what is being made."""
        for event in self.cancelled.values():
            event.set()

    def close(self) -> None:
        """End the work, and remove all files."""
        self.cancel()
        self._is_closed = True
        shutil.rmtree(self._folder, ignore_errors=True)

    def take_photo(self, upload: Upload) -> None:
        """Take the photo to restyle; the one so far stays if this one cannot be.

        Args:
            upload: its file.

        Raises:
            ValueError: it is no picture, too large or too small.
        """
        path, picture = self._read(upload)
        small = images.fit_picture(picture, images.least_side(picture.size, PREVIEW))
        thumbnail = data_url(small.srgb, small.alpha)
        suffix = suffix_of(path, picture)
        photo = Photo(path, small, picture.size, picture.depth, suffix, thumbnail)
        self._choose(replace(self.choice, photo=photo))

    def take_styles(self, uploads: Sequence[Upload], blend: bool = False) -> None:
        """Take reference pictures as styles.

        Args:
            uploads: files.
            blend: whether the styles so far stay.

        Raises:
            ValueError: one is no picture, too large or too small, or there are too many.
        """
        new = []
        for upload in uploads:
            path, picture = self._read(upload)
            shutil.rmtree(path.parent)
            picture = images.fit_picture(picture, STYLE_SIDE)
            thumbnail = data_url(picture.srgb, picture.alpha, _THUMBNAIL)
            new.append(Style(path.name, path.stem, thumbnail, picture))
        self._add_styles(new, blend)

    def choose(self, preset: str, blend: bool = False) -> None:
        """Choose a preset as a style, or no longer if it was chosen.

        Args:
            preset: its name.
            blend: whether the other styles stay.

        Raises:
            ValueError: there is no such preset, or there are too many styles.
        """
        path = next((path for path in presets.shipped() if path.stem == preset), None)
        if path is None:
            raise ValueError(f"preset must be one of {', '.join(presets.names())}, got {preset!r}")
        for k, style in enumerate(self.choice.styles):
            if style.name == preset and style.picture is None:
                return self.remove(k)
        self._add_styles([Style(preset, short_title(path), preset_thumbnail(preset))], blend)

    def remove(self, index: int) -> None:
        """Remove a style."""
        kept = [k for k in range(len(self.choice.styles)) if k != index]
        self._keep_styles(kept)

    def keep_last(self) -> None:
        """Remove all styles but the last one."""
        self._keep_styles([*range(len(self.choice.styles))][-1:])

    def weigh(self, index: int, weight: float) -> None:
        """Change the weight of a style, in [0, 1]."""
        weights = list(self.choice.weights)
        weights[index] = min(max(float(weight), 0.0), 1.0)
        self.choice = replace(self.choice, weights=tuple(weights))

    def paint(self, masks: Sequence[str]) -> None:
        """Take the regions of the photo and the style.

        Args:
            masks: two PNGs as data URLs, as large as the pictures that are shown, and black where
                nothing is painted.

        Raises:
            ValueError: they are not such pictures.
        """
        photo, choice = self.choice.photo, self.choice
        if photo is None or not choice.can_paint or choice.styles[0].picture is None:
            return
        sizes = photo.picture.size, choice.styles[0].picture.size
        files = [self._new_file("mask.png") for _ in sizes]
        for file, url, size in zip(files, masks, sizes, strict=True):
            data = base64.b64decode(url.partition(",")[2], validate=True)
            with Image.open(BytesIO(data), formats=["PNG"]) as image:  # reads the header alone
                if image.size != size:
                    raise ValueError(f"A mask must have {size} pixels, got {image.size}.")
            file.write_bytes(data)
        painted = any(bool(images.read(file, labels=True).samples.any()) for file in files)
        regions = read_regions(files[0], files[1])
        found = Masks(regions.content, regions.style) if painted else None
        for file in files:
            shutil.rmtree(file.parent)
        if replace(self.choice, masks=choice.masks) == choice:  # nothing else was chosen meanwhile
            self.choice = replace(choice, masks=found)

    def add_photos(self, uploads: Sequence[Upload]) -> None:
        """Add photos to the batch.

        Args:
            uploads: files.

        Raises:
            OSError: a file is gone.
        """
        self.photos += [self._link(upload) for upload in uploads]

    def clear_photos(self) -> None:
        """Remove all photos from the batch."""
        for path in self.photos:
            shutil.rmtree(path.parent)
        self.photos = []

    def previews(self, settings: Settings) -> Iterator[Preview]:
        """Restyle the photo at the size of a preview.

        Args:
            settings: the controls.

        Yields:
            The preview; before a finer one, which takes longer, one that is not.

        Raises:
            ValueError: there is no photo or no style, or they do not go together.
        """
        choice, (photo, settings) = self.choice, self._ready(self.choice, settings)
        whole = replace(settings, strength=1.0)

        def preview(whole: Settings) -> Preview:
            key, known = (whole, choice), self._previewed
            if known is None or known[0] != key:
                known = self._previewed = key, self._small_result(choice, photo, whole)
            pixels = torch.lerp(photo.picture.srgb, known[1], settings.strength)
            return Preview(data_url(pixels, photo.picture.alpha), whole.finer == settings.finer)

        if settings.finer and (self._previewed is None or self._previewed[0] != (whole, choice)):
            yield self._turns.short(partial(preview, replace(whole, finer=False)))
        yield self._turns.short(partial(preview, whole))

    @torch.inference_mode()
    def _small_result(self, choice: Choice, photo: Photo, settings: Settings) -> Tensor:
        regions = _regions(choice.masks, photo.picture)
        result: Picture = self._restyler(choice, settings)(photo.picture, regions)
        return result.srgb

    def restyle(self, settings: Settings, report: Report) -> Result:
        """Restyle the photo at full size.

        Args:
            settings: the controls.
            report: is called with fractions of the work that add up to 1.

        Returns:
            The result, the first of `results`.

        Raises:
            ValueError: see `previews`.
            CancelledError: ``cancelled["picture"]`` was set.
        """
        choice, (photo, settings) = self.choice, self._ready(self.choice, settings)
        check = self._check("picture")
        with self._turns.long(check), torch.inference_mode():
            content = read_upload(photo.path)
            restyler, regions = self._restyler(choice, settings), _regions(choice.masks, content)
            result = self._follow(restyler, deepened(content), regions, report, check)
            shown = [images.fit_picture(each, _SHOWN) for each in (content, result)]
        before, after = (data_url(each.srgb, each.alpha) for each in shown)
        thumbnail = data_url(shown[1].srgb, shown[1].alpha, _THUMBNAIL)
        file = self._new_file("result.pt")
        torch.save(result, file)
        made = Result(choice, photo, settings, before, after, thumbnail, file)
        for old in self.results[_RESULTS - 1 :]:
            shutil.rmtree(old.file.parent)
        self.results = [made, *self.results[: _RESULTS - 1]]
        return made

    def download(self, result: Result, suffix: str | None = None) -> Path:
        """Write a result as a file, with the photo's metadata.

        Args:
            result: one of `results`.
            suffix: ".png", ".tiff" for 16 bits per channel, or None for a file like the photo's.

        Returns:
            The file.

        Raises:
            ValueError: it cannot be written.
        """
        picture: Picture = torch.load(result.file, weights_only=False)
        depth = 16 if suffix == ".tiff" else result.photo.depth
        path = self._new_file(f"{result.choice.name}{suffix or result.photo.suffix}")
        images.write(replace(picture, depth=depth), path)
        return path

    def look(self, settings: Settings) -> tuple[Path, float]:
        """Write the look of what is shown as a .cube file.

        Args:
            settings: the controls, if a preview is shown.

        Returns:
            The file, and the mean difference by CIEDE2000 to the photo restyled.

        Raises:
            ValueError: see `previews`.
        """
        choice = self.shown.choice if self.shown else self.choice
        settings = self.shown.settings if self.shown else settings
        settings = replace(settings, photograph=True, finer=True)
        choice = replace(choice, masks=None)
        photo, settings = self._ready(choice, settings)
        path = self._new_file(f"{choice.name}.cube")

        @torch.inference_mode()
        def write() -> float:
            stylizer = self._restyler(choice, settings)
            look = stylizer.look(photo.picture)
            look.save(path)
            return difference(look(photo.picture), stylizer(photo.picture)).mean().item()

        return path, self._turns.short(write)

    def restyle_batch(self, settings: Settings, report: Report) -> Batch:
        """Restyle the photos of the batch in the style.

        Args:
            settings: the controls.
            report: is called with fractions of the work that add up to 1.

        Returns:
            What has become of them.

        Raises:
            ValueError: there is no style, or no picture could be restyled.
            CancelledError: ``cancelled["batch"]`` was set.
        """
        choice, photos = replace(self.choice, masks=None), list(self.photos)
        settings = _with_styles(choice, settings)
        if not photos:
            raise ValueError("Choose at least one photo.")
        errors = []
        archive = self._new_file(f"restyled-{choice.label}.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as results:
            for photo in photos:
                try:
                    file = self._restyle_file(
                        photo, choice, settings, lambda p: report(p / len(photos))
                    )
                except BAD_INPUT as error:
                    errors.append(self.sentence(error))
                    continue
                taken = {name.lower() for name in results.namelist()}
                results.write(file, unused(file.name, taken))
                shutil.rmtree(file.parent)
        if len(errors) == len(photos):
            raise ValueError(" ".join(errors))
        return Batch(archive, len(photos), errors)

    def _restyle_file(self, path: Path, choice: Choice, settings: Settings, report: Report) -> Path:
        check = self._check("batch")
        with self._turns.long(check), torch.inference_mode():
            content = read_upload(path)
            restyler = self._restyler(choice, settings)
            result = self._follow(restyler, content, None, report, check)
        target = self._new_file(path.with_suffix(suffix_of(path, content)).name)
        images.write(result, target)
        return target

    def command(self, settings: Settings) -> str:
        """Write the command that makes the same picture; see `Choice.command`."""
        return self.choice.command(_possible(self.choice, settings))

    def notes(self) -> list[str]:
        """List what the visitor should know of the photo and its regions."""
        photo, masks = self.choice.photo, self.choice.masks
        if photo is None:
            return []
        notes = [*photo.picture.notes]
        unmasked = 0.0 if masks is None else 1 - masks.content.sum(0).mean().item()
        if unmasked > _UNMASKED:
            notes.append(
                f"{unmasked:.0%} of the photo is not restyled: its colour is painted on the "
                "photo only."
            )
        return notes

    def sentence(self, error: Exception) -> str:
        """Describe an error, in which files have the names that the visitor knows."""
        folders = rf"{re.escape(str(self._folder.parent))}/(?:[\w-]+/)*"
        text = re.sub(folders, "", sentence(error))
        return text if text.endswith(".") else f"{text}."

    def link(self, path: Path) -> Path:
        """Give a file another path, since Gradio removes what it has served."""
        return self._link(Upload(path, path.name))

    def _choose(self, choice: Choice) -> None:
        self.choice = replace(choice, masks=None)
        self.round += 1

    def _add_styles(self, new: Sequence[Style], blend: bool) -> None:
        old, weights = self.choice.styles if blend else (), self.choice.weights if blend else ()
        if len(old) + len(new) > MAX_STYLES:
            number = len(old) + len(new)
            raise ValueError(f"At most {MAX_STYLES} styles can be blended, got {number}.")
        weights = (*weights, *(1.0 for _ in new))
        self._choose(replace(self.choice, styles=(*old, *new), weights=weights))

    def _keep_styles(self, kept: Sequence[int]) -> None:
        styles = tuple(self.choice.styles[k] for k in kept)
        weights = tuple(self.choice.weights[k] for k in kept)
        self._choose(replace(self.choice, styles=styles, weights=weights))

    def _ready(self, choice: Choice, settings: Settings) -> tuple[Photo, Settings]:
        if choice.photo is None:
            raise ValueError("Choose a photo.")
        return choice.photo, _with_styles(choice, settings)

    def _read(self, upload: Upload) -> tuple[Path, Picture]:
        path = self._link(upload)
        try:
            return path, read_upload(path)
        except BAD_INPUT:
            shutil.rmtree(path.parent)
            raise

    def _link(self, upload: Upload) -> Path:
        """A link to a file, by the visitor's name for it, in a folder of its own."""
        path = self._new_file(shortened(upload.name, _NAME))
        try:
            os.link(upload.path, path)
        except OSError:  # on another file system
            shutil.copyfile(upload.path, path)
        return path

    def _new_file(self, name: str) -> Path:
        if self._is_closed:
            raise CancelledError
        path = self._folder / str(next(self._numbers)) / name
        path.parent.mkdir(parents=True)
        return path

    def _restyler(self, choice: Choice, settings: Settings) -> Stylizer:
        """A stylizer with these settings and styles."""
        base = self._stylizer
        stylizer = base.sibling(
            **settings.arguments(), precision=base.precision, memory=base.memory
        )
        brush = None if settings.photograph else settings.brush
        key = settings.photograph, settings.finer, brush, replace(choice, photo=None)
        known = self._statistics.get(key)
        if known is not None:
            stylizer.statistics.set(known)
            return stylizer
        styles = [s.name if s.picture is None else s.picture for s in choice.styles]
        regions = None
        if choice.masks is not None and choice.styles[0].picture is not None:
            width, height = choice.styles[0].picture.size
            regions = resize(choice.masks.style, (height, width))
        blend = choice.weights if len(styles) > 1 else None
        stylizer.set_style(styles, blend=blend, regions=regions)
        while len(self._statistics) >= _CACHED:
            del self._statistics[next(iter(self._statistics))]
        self._statistics[key] = stylizer.statistics.get() or ()
        return stylizer

    def _check(self, job: str) -> Callable[[], None]:
        def check() -> None:
            if self.cancelled[job].is_set():
                raise CancelledError

        return check

    def _follow(
        self,
        stylizer: Stylizer,
        content: Picture,
        regions: Tensor | None,
        report: Report,
        check: Callable[[], None],
    ) -> Picture:
        def advance(part: float) -> None:
            check()
            report(part)
            self._turns.let_pass()

        stylizer.solver = deepcopy(stylizer.solver)  # for the hooks
        with follow(stylizer, advance):
            result: Picture = stylizer(content, regions)
        return result


def _with_styles(choice: Choice, settings: Settings) -> Settings:
    if not choice.styles:
        raise ValueError("Choose a style: a reference picture or a preset.")
    if not any(choice.weights):
        raise ValueError("At least one style must have a weight above 0.")
    return _possible(choice, settings)


def _possible(choice: Choice, settings: Settings) -> Settings:
    return replace(settings, brush=1.0) if choice.has_preset else settings


def _regions(masks: Masks | None, picture: Picture) -> Tensor | None:
    if masks is None:
        return None
    width, height = picture.size
    return resize(masks.content, (height, width))


def unused(name: str, taken: set[str]) -> str:
    """Number a file's name if it is taken.

    Args:
        name: the name.
        taken: names in lower case.

    Returns:
        The name, or one like it.

    Examples:
        >>> from fastfcs.app.visit import unused
        >>> unused("a.jpg", {"b.jpg"}), unused("a.jpg", {"a.jpg", "a-2.jpg"})
        ('a.jpg', 'a-3.jpg')
    """
    path = Path(name)
    names = (f"{path.stem}-{k}{path.suffix}" if k > 1 else name for k in count(1))
    return next(each for each in names if each.lower() not in taken)
