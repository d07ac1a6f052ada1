"""What has become of every picture: rows in shards while the work goes on, one file at the end.

A shard is written by whoever has written its results, right after them. So whatever is killed, the
shards tell what is done. They lie in the hidden folder of the output, and are merged as they come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO

import pyarrow as pa
from pyarrow import parquet

from . import store

SCHEMA = pa.schema(
    {
        "input": pa.string(),
        "output": pa.string(),
        "style": pa.string(),
        "masks": pa.list_(pa.string()),
        "size": pa.list_(pa.int32()),
        "seconds": pa.float64(),
        "node": pa.string(),
        "status": pa.string(),
        "error": pa.string(),
        "sha256": pa.string(),
        "notes": pa.list_(pa.string()),
    }
)
"""The columns of a manifest."""

_NAME = "_manifest.parquet"
_HIDDEN = ".fastfcs"
_PARTS = "part-"


@dataclass(frozen=True)
class Row:
    """What has become of one picture.

    Attributes:
        input: a path or URL, or that of a table with its row.
        output: the result's name in the output folder.
        style: its own style, if it has one.
        masks: the files of its regions and of its style's, if it has them.
        size: width and height of the result, in pixels; None if there is none.
        seconds: of work, without waiting.
        node: where it was restyled: the host, and the node's identifier in Ray.
        status: "done"; "failed"; or "skipped", where a result existed that is not of this command.
        error: why it failed, in one sentence.
        sha256: of the result's bytes, in hexadecimal digits.
        notes: what was converted, dropped or reduced.

    Examples:
        >>> from fastfcs.batch.manifest import Row
        >>> Row("in/a.jpg", "a.jpg", error="in/a.jpg cannot be read: broken").status
        'failed'
    """

    input: str
    output: str
    style: str | None = None
    masks: tuple[str, str] | None = None
    size: tuple[int, int] | None = None
    seconds: float = 0.0
    node: str = ""
    status: str = "failed"
    error: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()


class Manifest:
    """The manifest of an output.

    Args:
        output: a folder, or a folder of Parquet files whose name ends in .parquet.

    Attributes:
        url: the manifest, `_manifest.parquet` in the output. Readers of Parquet folders leave out
            files whose names begin so.

    Examples:
        >>> from fastfcs.batch.manifest import Manifest, Row
        >>> manifest = Manifest("memory://restyled")
        >>> manifest.add([Row("in/a.jpg", "a.jpg", size=(24, 16), status="done")])
        >>> list(manifest.read())
        ['a.jpg']
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self.url = store.join(output, _NAME)
        self._hidden = store.join(output, _HIDDEN)
        self._settings = store.join(self._hidden, "settings")
        self.holds_results = output.rstrip("/").endswith(".parquet")

    def begin(self, settings: str, overwrite: bool) -> dict[str, Row]:
        """Begin or continue.

        Args:
            settings: identifies what the results depend on.
            overwrite: whether what was there is begun again.

        Returns:
            What has become of pictures so far, by output.

        Raises:
            ValueError: the output was begun with other settings.
            StoreError: the output cannot be read or written.
        """
        known = store.read(self._settings).decode() if store.exists(self._settings) else None
        if known is not None and overwrite:
            self.clear()
        elif known is not None and known != settings:
            raise ValueError(
                f"{self._output} was begun with other settings; --force begins again, and replaces "
                "its results"
            )
        rows = {} if overwrite else self.read()
        if known != settings:
            with store.errors(self._output, "written"):
                store.write(self._settings, settings.encode())
        return rows

    @property
    def is_begun(self) -> bool:
        """Whether there is a manifest, finished or not."""
        return store.exists(self._settings)

    def clear(self) -> None:
        """Remove the manifest, and the results that are in Parquet files."""
        store.remove(self._output, [*self._parts(), _NAME])
        store.remove(self._hidden)

    def add(self, rows: Sequence[Row], results: Sequence[bytes] | None = None) -> None:
        """Add a shard. The same pictures replace their former shard.

        Args:
            rows: what has become of some pictures.
            results: their results, for an output of Parquet files.
        """
        if results is None:
            store.write(self._shard(rows), _encoded(rows))
        else:
            name = f"{_PARTS}{_key(rows)}.parquet"
            store.write(store.join(self._output, name), _encoded(rows, results))

    def find(self, outputs: Sequence[str]) -> list[Row] | None:
        """Look up the shard of some pictures.

        Args:
            outputs: their results' names.

        Returns:
            What has become of them if they have a shard together, and None otherwise.
        """
        url = self._shard([Row("", output) for output in outputs])
        return _decoded(store.read(url)) if store.exists(url) else None

    def read(self) -> dict[str, Row]:
        """Read all that is known.

        Returns:
            What has become of pictures, by output.
        """
        rows: list[Row] = []
        if store.exists(self.url):
            rows += _decoded(store.read(self.url))
        for name in store.names(store.join(self._hidden, "rows")):
            rows += _decoded(store.read(store.join(self._hidden, f"rows/{name}")))
        for name in self._parts():
            rows += _columns(store.join(self._output, name))
        return _latest(rows)

    def merge(self, rows: Sequence[Row]) -> None:
        """Replace the shards of some pictures, one of each, by a single one.

        Args:
            rows: as they were added.
        """
        self.add(rows)
        store.remove(f"{self._hidden}/rows", [f"{_key([row])}.parquet" for row in rows])

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the manifest, and remove what killed processes have left half-written.

        Args:
            rows: all of them, in order.
        """
        store.write(self.url, _encoded(list(rows)))
        store.remove(f"{self._hidden}/rows")
        left = [n for n in store.names(self._output) if re.search(r"(^|/)\.[^/]+\.part$", n)]
        store.remove(self._output, left)

    def _parts(self) -> list[str]:
        """The names of the Parquet files with results."""
        found = store.names(self._output) if self.holds_results else []
        return [name for name in found if re.fullmatch(rf"{_PARTS}[0-9a-f]+\.parquet", name)]

    def _shard(self, rows: Sequence[Row]) -> str:
        return store.join(self._hidden, f"rows/{_key(rows)}.parquet")


def _key(rows: Sequence[Row]) -> str:
    """A name that is the same whenever the same pictures are done together."""
    return sha256("\n".join(row.output for row in rows).encode()).hexdigest()[:24]


def _latest(rows: Iterable[Row]) -> dict[str, Row]:
    """One row per output: a result counts more than a failure."""
    latest: dict[str, Row] = {}
    for row in rows:
        if row.output not in latest or row.status != "failed":
            latest[row.output] = row
    return latest


def _encoded(rows: Sequence[Row], results: Sequence[bytes] | None = None) -> bytes:
    table = pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
    if results is not None:
        table = table.append_column("image", pa.array(results, pa.large_binary()))
    stream = BytesIO()
    # Readers can take the results one after another, and JPEG does not get any smaller.
    sizes = {} if results is None else {"row_group_size": 4, "compression": "none"}
    parquet.write_table(table, stream, use_dictionary=False, **sizes)
    return stream.getvalue()


def _decoded(data: bytes) -> list[Row]:
    return _from_table(parquet.read_table(BytesIO(data), columns=SCHEMA.names))


def _columns(url: str) -> list[Row]:
    """The rows of a Parquet file with results, which are not read."""
    system, path = store.locate(url)
    with system.open(path) as stream:
        return _from_table(parquet.read_table(stream, columns=SCHEMA.names))


def _from_table(table: pa.Table) -> list[Row]:
    rows = table.to_pylist()
    for row in rows:
        for name in ("masks", "size"):
            row[name] = None if row[name] is None else tuple(row[name])
        row["notes"] = tuple(row["notes"] or ())
    return [Row(**row) for row in rows]
