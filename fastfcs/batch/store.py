"""Files on disk, or in any store that fsspec knows: s3://, gs://, sftp://, ..."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..files import atomic

# Stores in which a file appears when it is complete. Elsewhere a hidden one is written and renamed.
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "hf", "memory"}
# Errors that another try would raise again.
_LASTING = FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError


class StoreError(OSError):
    """Raised if a file cannot be read or written; the message is one sentence.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.read("gone.png")
        Traceback (most recent call last):
        fastfcs.batch.store.StoreError: gone.png cannot be read: No such file or directory
    """


class Unavailable(StoreError):
    """Raised if another try may succeed.

    Examples:
        >>> from fastfcs.batch.store import StoreError, Unavailable
        >>> issubclass(Unavailable, StoreError)
        True
    """


def read(url: str) -> bytes:
    """Read a file.

    Args:
        url: a path or a URL.

    Returns:
        Its content.

    Raises:
        StoreError: it cannot be read.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.write("memory://pictures/notes.txt", b"24")
        >>> store.read("memory://pictures/notes.txt")
        b'24'
    """
    with _errors(url, "read"):
        system, path = locate(url)
        content: bytes = system.cat_file(path)
        return content


def write(url: str, content: bytes) -> None:
    """Write a file, which appears when it is complete; missing folders are created.

    Args:
        url: a path or a URL.
        content: of the file.

    Raises:
        StoreError: it cannot be written.

    Examples:
        >>> import tempfile
        >>> from fastfcs.batch import store
        >>> url = store.join(tempfile.mkdtemp(), "a/notes.txt")
        >>> store.write(url, b"24")
        >>> store.exists(url)
        True
    """
    with _new(url) as (system, new):
        system.pipe_file(new, content)


def put(path: Path, url: str) -> None:
    """Write a file from one on disk, as `write` does.

    Args:
        path: the file on disk.
        url: a path or a URL.

    Raises:
        StoreError: it cannot be written.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastfcs.batch import store
        >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> _ = path.write_text("24")
        >>> store.put(path, "memory://put/notes.txt")
        >>> store.read("memory://put/notes.txt")
        b'24'
    """
    with _new(url) as (system, new):
        system.put_file(str(path), new)


@contextmanager
def local(url: str) -> Iterator[str]:
    """Give a file a path on disk.

    Args:
        url: a path or a URL.

    Yields:
        The file's own path if it is on disk, and that of a copy otherwise.

    Raises:
        StoreError: it cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.batch import store
        >>> store.write("memory://local/notes.txt", b"24")
        >>> with store.local("memory://local/notes.txt") as path:
        ...     Path(path).name, Path(path).read_text()
        ('notes.txt', '24')
    """
    with ExitStack() as stack:
        with _errors(url, "read"):
            system, path = locate(url)
            if not isinstance(system, LocalFileSystem):
                folder = stack.enter_context(TemporaryDirectory(prefix="fastfcs-"))
                copy = f"{folder}/{posixpath.basename(path)}"
                system.get_file(path, copy)
                path = copy
        yield path


def exists(url: str) -> bool:
    """Tell whether there is a file or folder.

    Args:
        url: a path or a URL.

    Returns:
        Whether it exists.

    Raises:
        StoreError: the store cannot be asked.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.exists("gone.png")
        False
    """
    with _errors(url, "read"):
        system, path = locate(url)
        return bool(system.exists(path))


def is_folder(url: str) -> bool:
    """Tell whether there is a folder.

    Args:
        url: a path or a URL.

    Returns:
        Whether it is a folder.

    Raises:
        StoreError: the store cannot be asked.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.is_folder("."), store.is_folder("gone")
        (True, False)
    """
    with _errors(url, "read"):
        system, path = locate(url)
        return bool(system.isdir(path))


def names(folder: str, pattern: str | None = None) -> list[str]:
    """List the files in a folder and its subfolders.

    Args:
        folder: a path or a URL.
        pattern: what their names relative to the folder match, with ``*``, ``?``, ``[...]`` and
            ``**``; None is all.

    Returns:
        Their names relative to the folder, sorted; none if there is no such folder.

    Raises:
        StoreError: the folder cannot be read.

    Examples:
        >>> from fastfcs.batch import store
        >>> for name in ("a.png", "b/c.png"):
        ...     store.write(f"memory://listed/{name}", b"")
        >>> store.names("memory://listed"), store.names("memory://listed", "*.png")
        (['a.png', 'b/c.png'], ['a.png'])
    """
    with _errors(folder, "read"):
        system, path = locate(folder)
        if pattern is None:
            found: Sequence[str] = system.find(path)
        else:
            found = system.glob(f"{path.rstrip('/')}/{pattern}")
            found = [each for each in found if system.isfile(each)]
    start = len(path.rstrip("/")) + 1
    return sorted(each[start:] for each in found)


def remove(urls: Sequence[str]) -> None:
    """Remove files, or folders with all that is in them; those that do not exist are passed over.

    Args:
        urls: paths or URLs in one store.

    Raises:
        StoreError: one cannot be removed.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.write("memory://old/notes.txt", b"")
        >>> store.remove(["memory://old"])
        >>> store.exists("memory://old/notes.txt")
        False
    """
    for url in urls:
        with _errors(url, "removed"):
            system, path = locate(url)
            if system.exists(path):
                system.rm(path, recursive=True)


def join(folder: str, name: str) -> str:
    """Tell where a file of a folder is.

    Args:
        folder: a path or a URL.
        name: the file's name relative to the folder, or a path or URL of its own.

    Returns:
        The file's path or URL.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.join("s3://bucket/in/", "a/b.png"), store.join("in", "/tmp/a.png")
        ('s3://bucket/in/a/b.png', '/tmp/a.png')
    """
    return name if "://" in name or name.startswith("/") else f"{folder.rstrip('/')}/{name}"


def locate(url: str) -> tuple[Any, str]:
    """Find the store of a file.

    Args:
        url: a path or a URL.

    Returns:
        The file system of fsspec, and the path in it.

    Raises:
        ImportError, ValueError: there is no such store.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.locate("memory://a/b.png")[1]
        '/a/b.png'
    """
    # Other processes write, too, so listings are not kept.
    system, path = url_to_fs(url, use_listings_cache=False)
    return system, str(path)


@contextmanager
def _new(url: str) -> Iterator[tuple[Any, str]]:
    """A store, and the path in it to write, which becomes the file at the end of the block."""
    with _errors(url, "written"):
        system, path = locate(url)
        protocols = [system.protocol] if isinstance(system.protocol, str) else system.protocol
        folder = posixpath.dirname(path)
        if isinstance(system, LocalFileSystem):
            os.makedirs(folder, exist_ok=True)
            with atomic(path) as partial:
                yield system, str(partial)
        elif _WHOLE.intersection(protocols):
            yield system, path
        else:
            system.makedirs(folder, exist_ok=True)
            hidden = f"{folder}/.{uuid4().hex}.part"
            yield system, hidden
            system.mv(hidden, path)


@contextmanager
def _errors(url: str, verb: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = os.strerror(2)  # stores say only its name
        is_lasting = isinstance(error, (*_LASTING, ImportError))
        kind = StoreError if is_lasting else Unavailable
        text = str(reason).splitlines()[0].rstrip(".")
        raise kind(f"{url} cannot be {verb}: {text}") from error
