"""What one visitor of the page works on: the photo, the styles, previews and results."""

from __future__ import annotations

import base64
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event

import torch
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
from .items import Batch, Photo, Preview, Result, Style
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

Report = Callable[[float], None]


class CancelledError(Exception):
    """Raised within a job that the visitor has cancelled.

    Examples:
        >>> from fastfcs.app.visit import CancelledError
        >>> raise CancelledError
        Traceback (most recent call last):
        fastfcs.app.visit.CancelledError
    """


class Visit:
    """One visitor's work.

    Args:
        stylizer: whose network is used; it has a refinement.
        turns: among all visitors.
        folder: for files; it is made, and removed at the end.

    Attributes:
        photo: the photo.
        styles: that are blended.
        results: the last ones, the latest first.
        shown: the result that the page shows, if it is not a preview.
        photos: of the batch.
        batch: what has become of the last one.
        cancelled: whether the job that runs shall end.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs import Stylizer, images
        >>> from fastfcs.app.settings import Settings
        >>> from fastfcs.app.turns import Turns
        >>> from fastfcs.app.visit import Visit
        >>> folder = Path(tempfile.mkdtemp())
        >>> images.write(images.Picture(torch.rand(3, 48, 64)), folder / "photo.png")
        >>> images.write(images.Picture(torch.rand(3, 48, 64)), folder / "style.png")
        >>> visit = Visit(Stylizer(weights="tiny", refine=True), Turns(), folder / "visit")
        >>> visit.take_photo(folder / "photo.png")
        >>> visit.take_styles([folder / "style.png"])
        >>> [preview.is_last for preview in visit.previews(Settings())]
        [False, True]
        >>> result = visit.restyle(Settings(), lambda part: None)
        >>> visit.download(result).name
        'photo-style.png'
        >>> visit.close()
    """

    def __init__(self, stylizer: Stylizer, turns: Turns, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.photo: Photo | None = None
        self.styles: list[Style] = []
        self.results: list[Result] = []
        self.shown: Result | None = None
        self.photos: list[Path] = []
        self.batch: Batch | None = None
        self.cancelled = Event()
        self._masks: tuple[Path, Path] | None = None
        self._painted = 0  # how often
        self._stylizer, self._turns, self._folder = stylizer, turns, folder
        self._numbers = count()
        self._statistics: dict[object, Scales] = {}
        self._previewed: tuple[object, Tensor] | None = None

    def close(self) -> None:
        """End the work, and remove all files."""
        self.cancelled.set()
        shutil.rmtree(self._folder, ignore_errors=True)

    def take_photo(self, upload: Path) -> None:
        """Take the photo to restyle; the one so far stays if this one cannot be.

        Args:
            upload: its file.

        Raises:
            ValueError: it is no picture, too large or too small.
        """
        picture = read_upload(upload)
        path = self._keep(upload)
        small = images.fit_picture(picture, images.least_side(picture.size, PREVIEW))
        suffix = suffix_of(path, picture)
        thumbnail = data_url(small.srgb, small.alpha)
        self.photo = Photo(path, small, picture.size, picture.depth, suffix, thumbnail)
        self._masks = None

    def take_styles(self, uploads: Sequence[Path], blend: bool = False) -> None:
        """Take reference pictures as styles.

        Args:
            uploads: files.
            blend: whether the styles so far stay.

        Raises:
            ValueError: one is no picture, too large or too small, or there are too many.
        """
        new = []
        for upload in uploads:
            picture = images.fit_picture(read_upload(upload), STYLE_SIDE)
            thumbnail = data_url(picture.srgb, picture.alpha, _THUMBNAIL)
            new.append(Style(upload.name, upload.stem, thumbnail, picture=picture))
        self._set_styles([*(self.styles if blend else []), *new])

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
        others = [s for s in self.styles if s.name != preset or s.picture is not None]
        if len(others) == len(self.styles):
            style = Style(preset, short_title(path), preset_thumbnail(preset))
            others = [*(others if blend else []), style]
        self._set_styles(others)

    def add_photos(self, uploads: Sequence[Path]) -> None:
        """Add photos to the batch.

        Args:
            uploads: files.

        Raises:
            OSError: a file is gone.
        """
        self.photos += [self._keep(upload) for upload in uploads]

    def clear_photos(self) -> None:
        """Remove all photos from the batch."""
        for path in self.photos:
            shutil.rmtree(path.parent)
        self.photos = []

    def remove(self, index: int) -> None:
        """Remove a style."""
        self._set_styles([s for k, s in enumerate(self.styles) if k != index])

    def keep_last(self) -> None:
        """Blend no longer: the last style stays."""
        self._set_styles(self.styles[-1:])

    def weigh(self, index: int, weight: float) -> None:
        """Change the weight of a style, in [0, 1]."""
        self.styles[index].weight = min(max(float(weight), 0.0), 1.0)

    @property
    def has_preset(self) -> bool:
        """Whether a style has strokes of its own."""
        return any(style.picture is None for style in self.styles)

    @property
    def can_paint(self) -> bool:
        """Whether regions make sense: with a photo and one reference picture."""
        return self.photo is not None and len(self.styles) == 1 and not self.has_preset

    @property
    def has_masks(self) -> bool:
        """Whether regions are painted."""
        return self._masks is not None

    @property
    def mask_names(self) -> tuple[str, str]:
        """The names of the masks' files."""
        photo = self.photo.path.stem if self.photo else "photo"
        return f"{photo}-regions.png", f"{self._label()}-style-regions.png"

    def paint(self, masks: Sequence[str]) -> None:
        """Take the regions of the photo and the style.

        Args:
            masks: two PNGs as data URLs, black where nothing is painted.

        Raises:
            ValueError: they are not two pictures.
        """
        if not self.can_paint or len(masks) != 2:
            return
        files = self._folder / self.mask_names[0], self._folder / self.mask_names[1]
        for file, url in zip(files, masks, strict=True):
            file.write_bytes(base64.b64decode(url.partition(",")[2], validate=True))
        is_painted = any(bool(images.read(file, labels=True).samples.any()) for file in files)
        self._masks = files if is_painted else None
        self._painted += 1

    def previews(self, settings: Settings) -> Iterator[Preview]:
        """Restyle the photo at the size of a preview.

        Args:
            settings: the controls.

        Yields:
            The preview; before a finer one, which takes longer, one that is not.

        Raises:
            ValueError: there is no photo or no style, or they do not go together.
        """
        photo, settings = self._ready(settings)
        whole = replace(settings, strength=1.0)
        key = whole, photo, self._styles_key()
        if self._previewed is None or self._previewed[0] != key:
            if settings.finer:
                quick = self._small_result(photo, replace(whole, finer=False))
                yield Preview(self._mixed(photo, quick, settings), is_last=False)
            self._previewed = key, self._small_result(photo, whole)
        yield Preview(self._mixed(photo, self._previewed[1], settings))

    def _small_result(self, photo: Photo, settings: Settings) -> Tensor:
        with self._turns.short(), torch.inference_mode():
            regions = self._regions(photo.picture)
            result: Picture = self._restyler(settings)(photo.picture, regions)
        return result.srgb

    def _mixed(self, photo: Photo, result: Tensor, settings: Settings) -> str:
        pixels = torch.lerp(photo.picture.srgb, result, settings.strength)
        return data_url(pixels, photo.picture.alpha)

    def restyle(self, settings: Settings, report: Report) -> Result:
        """Restyle the photo at full size.

        Args:
            settings: the controls.
            report: is called with fractions of the work that add up to 1.

        Returns:
            The result, the first of `results`.

        Raises:
            ValueError: see `previews`.
            CancelledError: `cancelled` was set.
        """
        photo, settings = self._ready(settings)
        title, command = self._title(settings), self.command(settings)
        with self._turns.long(), torch.inference_mode():
            content = read_upload(photo.path)
            restyler, regions = self._restyler(settings), self._regions(content)
            result = self._follow(restyler, deepened(content), regions, report)
            shown = [images.fit_picture(each, _SHOWN) for each in (content, result)]
        before, after = (data_url(each.srgb, each.alpha) for each in shown)
        thumbnail = data_url(shown[1].srgb, shown[1].alpha, _THUMBNAIL)
        file = self._folder / f"{next(self._numbers)}.pt"
        torch.save(result, file)
        made = Result(photo, settings, self._name(), title, command, before, after, thumbnail, file)
        for old in self.results[_RESULTS - 1 :]:
            old.file.unlink()
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
        path = self._new_file(f"{result.name}{suffix or result.photo.suffix}")
        images.write(replace(picture, depth=depth), path)
        return path

    def look(self, settings: Settings) -> tuple[Path, float]:
        """Write the look of the photo in its style as a .cube file.

        Args:
            settings: the controls.

        Returns:
            The file, and the mean difference by CIEDE2000 to the photo restyled.

        Raises:
            ValueError: see `previews`.
        """
        photo, settings = self._ready(replace(settings, photograph=True, finer=True))
        path = self._new_file(f"{self._name()}.cube")
        with self._turns.short(), torch.inference_mode():
            stylizer = self._restyler(settings, with_masks=False)
            look = stylizer.look(photo.picture)
            look.save(path)
            found = difference(look(photo.picture), stylizer(photo.picture))
        return path, found.mean().item()

    def restyle_batch(self, settings: Settings, report: Report) -> Batch:
        """Restyle the photos of the batch in the style.

        Args:
            settings: the controls.
            report: is called with fractions of the work that add up to 1.

        Returns:
            What has become of them.

        Raises:
            ValueError: there is no style, or no picture could be restyled.
            CancelledError: `cancelled` was set.
        """
        settings, photos = self._with_style(settings), list(self.photos)
        if not photos:
            raise ValueError("Choose at least one photo.")
        errors = []
        archive = self._new_file(f"restyled-{self._label()}.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as results:
            for photo in photos:
                try:
                    file = self._restyle_file(photo, settings, lambda p: report(p / len(photos)))
                except BAD_INPUT as error:
                    errors.append(self.sentence(error))
                    continue
                taken = {name.lower() for name in results.namelist()}
                results.write(file, unused(file.name, taken))
                file.unlink()
        if len(errors) == len(photos):
            raise ValueError(" ".join(errors))
        return Batch(archive, len(photos), errors)

    def _restyle_file(self, path: Path, settings: Settings, report: Report) -> Path:
        with self._turns.long(), torch.inference_mode():
            content = read_upload(path)
            restyler = self._restyler(settings, with_masks=False)
            result = self._follow(restyler, content, None, report)
        target = self._new_file(path.with_suffix(suffix_of(path, content)).name)
        images.write(result, target)
        return target

    def link(self, path: Path) -> Path:
        """Give a file another path, since Gradio removes what it has served."""
        return self._keep(path)

    def command(self, settings: Settings) -> str:
        """Write the command that makes the same picture.

        Args:
            settings: the controls.

        Returns:
            A line for a shell; it is empty without a photo and a style.
        """
        if self.photo is None or not self.styles:
            return ""
        styles = [(style.name, style.weight) for style in self.styles]
        masks = None if self._masks is None else self.mask_names
        output = f"{self._name()}{self.photo.suffix}"
        return self._possible(settings).command(self.photo.path.name, styles, output, masks)

    def notes(self) -> list[str]:
        """List what the visitor should know of the photo and its regions."""
        notes = [] if self.photo is None else [*self.photo.picture.notes]
        if self.photo is not None and self._masks is not None:
            regions = self._regions(self.photo.picture)
            unmasked = 0.0 if regions is None else 1 - regions.sum(0).mean().item()
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

    def _set_styles(self, styles: list[Style]) -> None:
        if len(styles) > MAX_STYLES:
            raise ValueError(f"At most {MAX_STYLES} styles can be blended, got {len(styles)}.")
        self.styles = styles
        self._masks = None

    def _with_style(self, settings: Settings) -> Settings:
        if not self.styles:
            raise ValueError("Choose a style: a reference picture or a preset.")
        if not any(style.weight for style in self.styles):
            raise ValueError("At least one style must have a weight above 0.")
        return self._possible(settings)

    def _possible(self, settings: Settings) -> Settings:
        return replace(settings, brush=1.0) if self.has_preset else settings

    def _ready(self, settings: Settings) -> tuple[Photo, Settings]:
        if self.photo is None:
            raise ValueError("Choose a photo.")
        return self.photo, self._with_style(settings)

    def _keep(self, upload: Path) -> Path:
        """A link to an uploaded file in a folder of its own, where others leave it alone."""
        path = self._new_file(upload.name)
        try:
            os.link(upload, path)
        except OSError:  # on another file system
            shutil.copyfile(upload, path)
        return path

    def _new_file(self, name: str) -> Path:
        path = self._folder / str(next(self._numbers)) / name
        path.parent.mkdir()
        return path

    def _styles_key(self) -> object:
        return tuple((style, style.weight) for style in self.styles), self._masks, self._painted

    def _restyler(self, settings: Settings, with_masks: bool = True) -> Stylizer:
        """A stylizer with these settings and the visitor's style."""
        base = self._stylizer
        stylizer = base.sibling(
            **settings.arguments(), precision=base.precision, memory=base.memory
        )
        masks = self._masks if with_masks else None
        brush = None if settings.photograph else settings.brush
        key = settings.photograph, settings.finer, brush, masks, self._styles_key()
        known = self._statistics.get(key)
        if known is not None:
            stylizer.statistics.set(known)
            return stylizer
        styles = [s.name if s.picture is None else s.picture for s in self.styles]
        weights = [s.weight for s in self.styles] if len(styles) > 1 else None
        regions = None
        if masks is not None and self.styles[0].picture is not None:
            width, height = self.styles[0].picture.size
            regions = resize(read_regions(*masks).style, (height, width))
        stylizer.set_style(styles, blend=weights, regions=regions)
        while len(self._statistics) >= _CACHED:
            del self._statistics[next(iter(self._statistics))]
        self._statistics[key] = stylizer.statistics.get() or ()
        return stylizer

    def _regions(self, picture: Picture) -> Tensor | None:
        if self._masks is None:
            return None
        width, height = picture.size
        return resize(read_regions(*self._masks).content, (height, width))

    def _follow(
        self, stylizer: Stylizer, content: Picture, regions: Tensor | None, report: Report
    ) -> Picture:
        def advance(part: float) -> None:
            if self.cancelled.is_set():
                raise CancelledError
            report(part)
            self._turns.let_pass()

        stylizer.solver = deepcopy(stylizer.solver)  # for the hooks
        with follow(stylizer, advance):
            result: Picture = stylizer(content, regions)
        return result

    def _label(self) -> str:
        return re.sub(r"[^\w.+-]+", "-", "+".join(Path(s.name).stem for s in self.styles))[:60]

    def _name(self) -> str:
        return f"{self.photo.path.stem if self.photo else ''}-{self._label()}"

    def _title(self, settings: Settings) -> str:
        kind = "Photograph" if settings.photograph else "Painting"
        return f"{kind}, {' + '.join(style.title for style in self.styles)}"


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
