"""Files on disk, or in any store that fsspec knows: s3://, gs://, sftp://, ..."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
_LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_LASTING_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}


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
    with errors(url, "read"):
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
        with errors(url, "read"):
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
    with errors(url, "read"):
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
    with errors(url, "read"):
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
        StoreError: the folder, or one in it, cannot be read.

    Examples:
        >>> from fastfcs.batch import store
        >>> for name in ("a.png", "b/c.png"):
        ...     store.write(f"memory://listed/{name}", b"")
        >>> store.names("memory://listed"), store.names("memory://listed", "*.png")
        (['a.png', 'b/c.png'], ['a.png'])
    """
    with errors(folder, "read"):
        system, path = locate(folder)
        if pattern is not None:
            matches = system.glob(f"{path.rstrip('/')}/{pattern}", detail=True)
            found = [name for name, about in matches.items() if about["type"] == "file"]
        elif not isinstance(system, LocalFileSystem):
            found = system.find(path)
        elif os.path.isdir(path):  # fsspec leaves out folders that cannot be read
            found = [
                f"{at}/{name}" for at, _, files in os.walk(path, onerror=_fail) for name in files
            ]
        else:
            found = []
    start = len(path.rstrip("/")) + 1
    return sorted(each[start:] for each in found)


def remove(folder: str, found: Sequence[str] | None = None) -> None:
    """Remove files of a folder; those that do not exist are passed over.

    Args:
        folder: a path or a URL.
        found: their names in it; None is the folder with all that is in it.

    Raises:
        StoreError: one cannot be removed.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.write("memory://old/notes.txt", b"")
        >>> store.remove("memory://old")
        >>> store.exists("memory://old/notes.txt")
        False
    """
    with errors(folder, "removed"):
        system, path = locate(folder)
        if isinstance(system, LocalFileSystem):
            for each in found or ():
                Path(path, each).unlink(missing_ok=True)
            if found is None and os.path.isdir(path):
                shutil.rmtree(path)
            return
        everything = system.find(path) if found is None else [f"{path}/{n}" for n in found]
        if any(character in path for character in "*?["):  # `rm` would take it for a pattern
            for each in everything:
                with suppress(FileNotFoundError):
                    system.rm_file(each)
        elif everything:
            with suppress(FileNotFoundError):
                system.rm(everything)  # few requests for many files


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


def absolute(url: str) -> str:
    """Make a path independent of the working folder.

    Args:
        url: a path or a URL.

    Returns:
        The absolute path, or the URL.

    Examples:
        >>> from fastfcs.batch import store
        >>> store.absolute("s3://bucket/a.png"), store.absolute("/tmp/../a.png")
        ('s3://bucket/a.png', '/a.png')
    """
    return url if "://" in url else os.path.abspath(url)


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
    if "://" not in url:  # whatever its name, it is no chain of stores
        return LocalFileSystem(), os.path.abspath(url)
    # Other processes write, too, so listings are not kept.
    protocol = url.partition("://")[0]
    options = {"use_listings_cache": False} if protocol in _WHOLE else {}
    system, path = url_to_fs(url, **options)
    return system, str(path)


@contextmanager
def _new(url: str) -> Iterator[tuple[Any, str]]:
    """A store, and the path in it to write, which becomes the file at the end of the block."""
    with errors(url, "written"):
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
def errors(url: str, verb: str) -> Iterator[None]:
    """Raise all errors as a `StoreError`; stores raise errors of many types.

    Args:
        url: the file, for the message.
        verb: past participle of the attempt, for the message.

    Yields:
        Nothing; the block reads or writes the file.

    Raises:
        StoreError: the block raised anything; `Unavailable` if it may pass.

    Examples:
        >>> from fastfcs.batch import store
        >>> with store.errors("s3://bucket/a.png", "read"):
        ...     raise TimeoutError("no answer")
        Traceback (most recent call last):
        fastfcs.batch.store.Unavailable: s3://bucket/a.png cannot be read: no answer
    """
    try:
        yield
    except StoreError as error:
        if str(error).startswith(f"{url} cannot be"):
            raise
        reason = str(error).rpartition(": ")[2]
        raise type(error)(f"{url} cannot be {verb}: {reason}") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = os.strerror(errno.ENOENT)  # stores say only its name
        is_lasting = isinstance(error, (*_LASTING, ValueError, ImportError))
        is_lasting |= getattr(error, "errno", None) in _LASTING_NUMBERS
        text = str(reason).splitlines()[0].rstrip(".")
        kind = StoreError if is_lasting else Unavailable
        raise kind(f"{url} cannot be {verb}: {text}") from error


def _fail(error: OSError) -> None:
    raise error
