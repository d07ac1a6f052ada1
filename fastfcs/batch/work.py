"""What tasks and actors do with a picture: decode it, restyle it, encode and write the result."""

from __future__ import annotations

import pickle
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import ray
import torch
from pyarrow import parquet

from .. import images, presets, restyling
from ..errors import sentence
from ..images import Picture
from ..images.encode import encode
from ..images.picture import picture_errors
from ..look import Look
from ..memory import return_freed
from ..stylizer import ENOUGH, Stylizer
from . import store
from .jobs import Job
from .manifest import Manifest, Row

_STYLES = 32  # whose statistics an actor keeps
_PART = 1 << 28  # bytes of results in a Parquet file
_READ = 8  # rows of a Parquet file that are read at a time


@dataclass(frozen=True)
class Recipe:
    """How every picture is restyled.

    Attributes:
        stylizer: with the style of the pictures that have none of their own, if there are any.
        style: the file of that style, which workers read for pictures with masks.
        look: what is applied in place of the stylizer, if anything.
        max_size: longer side, in pixels, to which larger pictures are reduced.
        video: arguments of `fastfcs.video.restyle.restyle`.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.batch.work import Recipe
        >>> Recipe(Stylizer(torch.rand(3, 24, 32), weights="tiny"), max_size=2000).max_size
        2000
    """

    stylizer: Stylizer
    style: str | None = None
    look: Look | None = None
    max_size: int | None = None
    video: dict[str, Any] = field(default_factory=dict)


@dataclass
class Item:
    """A picture on its way.

    Attributes:
        job: what is asked for.
        picture: the content, and then the result; None once it is encoded, and for a video.
        result: the encoded result, until it is written.
        size, seconds, node, error, sha256, notes: see `fastfcs.batch.manifest.Row`.
        is_lost: whether another try may succeed where this one has failed.

    Examples:
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.work import Item
        >>> Item(Job("in/a.jpg", "a.jpg", "in/a.jpg")).row.output
        'a.jpg'
    """

    job: Job
    picture: Picture | None = None
    result: bytes | None = None
    size: tuple[int, int] | None = None
    seconds: float = 0.0
    node: str = ""
    error: str | None = None
    sha256: str | None = None
    notes: list[str] = field(default_factory=list)
    is_lost: bool = False

    @property
    def row(self) -> Row:
        """Its row of the manifest."""
        return Row(
            self.job.input,
            self.job.output,
            self.job.style,
            self.job.masks,
            self.size,
            round(self.seconds, 3),
            self.node,
            "done" if self.error is None else "failed",
            self.error,
            self.sha256,
            tuple(self.notes),
        )


def as_table(items: Sequence[Item]) -> pa.Table:
    """Pack items for Ray.

    Args:
        items: the items.

    Returns:
        A table with a row per item.

    Examples:
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.work import Item, as_table, items_of
        >>> items_of(as_table([Item(Job("in/a.jpg", "a.jpg", "in/a.jpg"))]))[0].job.output
        'a.jpg'
    """
    return pa.table({"item": pa.array([_packed(item) for item in items], pa.large_binary())})


class _Pickler(pickle.Pickler):
    """Packs tensors as arrays, since torch cannot read its own pickles of uint16."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.from_numpy, (value.detach().cpu().contiguous().numpy(),)
        return NotImplemented


def _packed(item: Item) -> bytes:
    stream = BytesIO()
    _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(item)
    return stream.getvalue()


def items_of(table: pa.Table) -> list[Item]:
    """Unpack a table of `as_table`.

    Args:
        table: the table.

    Returns:
        The items.

    Examples:
        >>> from fastfcs.batch.work import as_table, items_of
        >>> items_of(as_table([]))
        []
    """
    return [pickle.loads(value.as_buffer()) for value in table["item"]]


def decode(table: pa.Table, max_size: int | None = None) -> Iterator[pa.Table]:
    """Decode pictures; videos are passed on.

    Args:
        table: of items.
        max_size: see `Recipe`.

    Yields:
        Each item as it is decoded.

    Examples:
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.work import Item, as_table, decode, items_of
        >>> table = as_table([Item(Job("gone.jpg", "gone.jpg", "gone.jpg"))])
        >>> [items_of(decoded)[0].error for decoded in decode(table)]
        ['gone.jpg cannot be read: No such file or directory']
    """
    torch.set_num_threads(1)
    for item, read in _files(items_of(table)):
        with _attempt(item):
            if not item.job.is_video:
                stream = _Named(read(), item.job.input)
                format = images.format_of(item.job.output)
                item.picture, item.notes = restyling.open_content(stream, format, max_size)
        yield as_table([item])


def content_of(job: Job) -> bytes:
    """Read the file of one job.

    Args:
        job: the job.

    Returns:
        The bytes of its picture.

    Raises:
        StoreError: it cannot be read.

    Examples:
        >>> from fastfcs.batch import store
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.work import content_of
        >>> store.write("memory://content/a.jpg", b"JPEG")
        >>> content_of(Job("a", "a.jpg", "memory://content/a.jpg"))
        b'JPEG'
    """
    [(_, read)] = _files([Item(job)])
    return read()


class Restyler:
    """An actor with a stylizer of its own.

    Args:
        recipe: how pictures are restyled.
        output: where videos are written, see `Manifest`.
        cores: number of CPU cores that it uses.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.batch.work import Recipe, Restyler, as_table
        >>> recipe = Recipe(Stylizer(torch.rand(3, 24, 32), weights="tiny"))
        >>> Restyler(recipe, "memory://out", cores=1)(as_table([])).num_rows
        0
    """

    def __init__(self, recipe: Recipe, output: str, cores: int) -> None:
        self._recipe, self._output, self._cores = recipe, output, cores
        is_on_gpu = ray.is_initialized() and ray.get_gpu_ids()
        self._stylizer = recipe.stylizer.to("cuda" if is_on_gpu else "cpu")
        if not is_on_gpu and self._stylizer.memory is None:
            self._stylizer.memory = ENOUGH  # others on this machine take some, too
        self._style = recipe.stylizer.statistics.get()
        self._known: OrderedDict[object, tuple[Any, list[str]]] = OrderedDict()
        self._node = _node()

    def __call__(self, table: pa.Table) -> pa.Table:
        torch.set_num_threads(self._cores)
        items = items_of(table)
        for group in self._groups(items):
            if len(group) == 1 or not self._restyle_together(group):
                for item in group:
                    self._restyle(item)
        return_freed()
        return as_table(items)

    @property
    def _batches(self) -> bool:
        return next(self._stylizer.parameters()).is_cuda and self._recipe.look is None

    def _groups(self, items: Sequence[Item]) -> list[list[Item]]:
        """Items that are restyled together: on a GPU, opaque pictures of like sizes and styles."""
        groups: dict[object, list[Item]] = {}
        for index, item in enumerate(items):
            item.node = self._node
            key: object = index
            picture, job = item.picture, item.job
            if (
                self._batches
                and picture is not None
                and picture.alpha is None
                and job.masks is None
            ):
                width, height = picture.size
                key = self._stylizer.solved_at(height, width), job.style
            groups.setdefault(key, []).append(item)
        return list(groups.values())

    def _restyle_together(self, items: Sequence[Item]) -> bool:
        """Restyle several pictures at once; False if that fails, because of one or for memory."""
        start = time.perf_counter()
        try:
            notes = self._set_style(items[0].job)
            pictures = [item.picture for item in items if item.picture is not None]
            with torch.inference_mode():
                results = self._stylizer.restyle_alike(pictures)
        except Exception:
            return False
        share = (time.perf_counter() - start) / len(items)
        for item, picture, result in zip(items, pictures, results, strict=True):
            item.notes += [*notes, *restyling.content_notes(self._stylizer, picture)]
            item.picture, item.size = result, picture.size
            item.seconds += share
        return True

    def _restyle(self, item: Item) -> None:
        with _attempt(item):
            if item.error is not None:
                return
            if item.picture is None:
                self._restyle_video(item)
                return
            picture, item.picture = item.picture, None
            item.size = picture.size
            if self._recipe.look is not None:
                with torch.inference_mode():
                    item.picture = self._recipe.look(picture)
                return
            with _masks(item.job) as (of_content, of_style):
                item.notes += self._set_style(item.job, of_style)
                restyled = restyling.restyle(self._stylizer, picture, of_content)
            item.picture = restyled.picture
            item.notes += restyled.notes

    def _restyle_video(self, item: Item) -> None:
        from ..video.restyle import restyle  # needs packages that pictures do without

        item.notes += self._set_style(item.job)
        with store.local(item.job.url) as source, TemporaryDirectory(prefix="fastfcs-") as folder:
            target = Path(folder) / Path(item.job.output).name
            report = restyle(source, target, self._stylizer, **self._recipe.video)
            item.size = report.size
            item.notes += report.notes
            with target.open("rb") as stream:
                digest = sha256()
                while block := stream.read(1 << 20):
                    digest.update(block)
            item.sha256 = digest.hexdigest()
            if Manifest(self._output).holds_results:
                item.result = target.read_bytes()
            else:
                store.put(target, store.join(self._output, item.job.output))

    def _set_style(self, job: Job, mask: restyling.Mask | None = None) -> list[str]:
        """Set the style of a picture, and return notes on it."""
        if job.style is None and mask is None:
            if self._style is None:
                raise ValueError("style must be given for every picture, got none for this one")
            self._stylizer.statistics.set(self._style)
            return []
        style = job.style or self._recipe.style
        if style is None:
            raise ValueError("style must be a single picture for one with masks, got several")
        key = style, job.masks
        if key not in self._known:
            is_preset = style in presets.names()
            with nullcontext(style) if is_preset else store.local(style) as path:
                notes = restyling.set_style(self._stylizer, [path], None, mask)
            known = [note.replace(path, style) for note in notes]
            self._known[key] = self._stylizer.statistics.get(), known
            if len(self._known) > _STYLES:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        statistics, notes = self._known[key]
        self._stylizer.statistics.set(statistics)
        return list(notes)


def write(table: pa.Table, output: str) -> pa.Table:
    """Encode results, and write them with their rows of the manifest.

    Args:
        table: of items.
        output: see `Manifest`. One of Parquet files is written by `collect`.

    Returns:
        The items, without their pictures.

    Examples:
        >>> import torch
        >>> from fastfcs.batch import store
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.work import Item, as_table, items_of, write
        >>> from fastfcs.images import Picture
        >>> item = Item(Job("in/a.png", "a.png", "in/a.png"), Picture(torch.rand(3, 16, 24)))
        >>> [written] = items_of(write(as_table([item]), "memory://written"))
        >>> store.exists("memory://written/a.png"), written.row.status
        (True, 'done')
    """
    torch.set_num_threads(1)
    manifest, items = Manifest(output), items_of(table)
    written = []
    for item in items:
        known = manifest.find([item.job.output])
        if known is not None:  # the task is repeated, since its report has been lost
            written.append(_reported(item.job, known[0]))
            continue
        if item.picture is not None:  # neither failed nor a video
            with _attempt(item):
                with picture_errors(item.job.output, "written"):
                    item.result = encode(item.picture, images.format_of(item.job.output))
                item.sha256 = sha256(item.result).hexdigest()
                if not manifest.holds_results:
                    store.write(store.join(output, item.job.output), item.result)
        item.picture = None
        if not manifest.holds_results:
            item.result = None
            if not item.is_lost:
                manifest.add([item.row])
        written.append(item)
    return as_table(written)


def collect(table: pa.Table, output: str) -> pa.Table:
    """Write encoded results as a Parquet file.

    Args:
        table: of items that `write` has encoded.
        output: see `Manifest`.

    Returns:
        The items, without their results.

    Examples:
        >>> from fastfcs.batch.jobs import Job
        >>> from fastfcs.batch.manifest import Manifest
        >>> from fastfcs.batch.work import Item, as_table, collect
        >>> item = Item(Job("in/a.png", "a.png", "in/a.png"), result=b"PNG")
        >>> _ = collect(as_table([item]), "memory://results.parquet")
        >>> Manifest("memory://results.parquet").read()["a.png"].status
        'done'
    """
    manifest, items = Manifest(output), items_of(table)
    for item in items:
        if item.error is not None and not item.is_lost:
            manifest.add([item.row])
    part: list[Item] = []
    for item in items:
        if item.error is None:
            part.append(item)
        if part and (item is items[-1] or sum(len(i.result or b"") for i in part) > _PART):
            manifest.add([i.row for i in part], [i.result or b"" for i in part])
            part = []
    for item in items:
        item.result = None
    return as_table(items)


def _reported(job: Job, row: Row) -> Item:
    return Item(
        job,
        size=row.size,
        seconds=row.seconds,
        node=row.node,
        error=row.error,
        sha256=row.sha256,
        notes=list(row.notes),
    )


@contextmanager
def _attempt(item: Item) -> Iterator[None]:
    """Count the seconds of the block, and make whatever it raises the item's error."""
    start = time.perf_counter()
    try:
        yield
    except Exception as error:  # also faults of ours: one picture does not end the others
        message = sentence(error)
        named = message if message.startswith(item.job.input) else f"{item.job.input}: {message}"
        item.error, item.is_lost = named, isinstance(error, store.Unavailable)
        item.picture = item.result = item.sha256 = item.size = None
    item.seconds += time.perf_counter() - start


class _Named(BytesIO):
    """Bytes with the name of their file, for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _files(items: Sequence[Item]) -> Iterator[tuple[Item, Callable[[], bytes]]]:
    """Every item with a function that reads its file."""
    groups: dict[tuple[str, str, int], dict[int, Item]] = {}
    for item in items:
        place = item.job.place
        if place is None:
            yield item, partial(store.read, item.job.url)
        else:
            group = groups.setdefault((item.job.url, place.column, place.group), {})
            group[place.row] = item
    for (url, column, group_index), wanted in groups.items():
        try:
            for row, data in _rows(url, column, group_index, max(wanted)):
                if row in wanted:
                    yield wanted.pop(row), partial(bytes, data)
        except store.StoreError as error:
            for item in wanted.values():
                yield item, partial(_fail, error)


def _rows(url: str, column: str, group: int, last: int) -> Iterator[tuple[int, bytes]]:
    """The bytes of a row group up to a row, of which only some pages are in memory at a time."""
    row = 0
    with store.errors(url, "read"):
        system, path = store.locate(url)
        pages = {"pre_buffer": False, "buffer_size": 1 << 20}
        with system.open(path) as stream, parquet.ParquetFile(stream, **pages) as file:
            for batch in file.iter_batches(_READ, row_groups=[group], columns=[column]):
                for value in batch.column(0):
                    data = value.as_py()
                    yield row, (data.get("bytes") if isinstance(data, dict) else data) or b""
                    row += 1
                if row > last:
                    return


def _fail(error: Exception) -> bytes:
    raise error


@contextmanager
def _masks(job: Job) -> Iterator[tuple[restyling.Mask | None, restyling.Mask | None]]:
    if job.masks is None:
        yield None, None
        return
    with ExitStack() as stack:
        paths = [stack.enter_context(store.local(url)) for url in job.masks]
        yield restyling.open_masks(*paths)


def _node() -> str:
    """The host's name, with the beginning of the node's identifier in Ray."""
    if not ray.is_initialized():
        return socket.gethostname()
    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"
