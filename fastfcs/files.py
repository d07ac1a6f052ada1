"""Writing files so that they are complete or absent, never half-written."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, and rename it to ``path`` if the block succeeds.

    An existing file is replaced. If the block raises, the temporary file is removed and an existing
    file stays as it was. A symbolic link stays, and the file that it points to is written.

    Args:
        path: the file to write, or a link to it.

    Yields:
        The hidden temporary path to write to, in the folder of the file.

    Raises:
        OSError: the folder does not exist or cannot be written to.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.files import atomic
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic(folder / "notes.txt") as partial:
        ...     _ = partial.write_text("complete")
        >>> [(file.name, file.read_text()) for file in folder.iterdir()]
        [('notes.txt', 'complete')]
    """
    file = Path(os.path.realpath(path))
    # The name is short, so that a file name of the maximum length can be written.
    partial = file.with_name(f".{zlib.crc32(file.name.encode()):08x}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(file)
    except OSError as error:
        if error.filename != str(partial):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file that ends in a newline, atomically.

    Args:
        path: the file to write.
        text: its content, without the final newline.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.files import write_text
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "report.json"
        >>> write_text(file, "{}")
        >>> file.read_text()
        '{}\\n'
    """
    with atomic(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file atomically; missing folders are created.

    Args:
        tensors: tensors by name, on any device, in any layout.
        path: the file to write.
        metadata: strings for the file's header.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.files import save_tensors
        >>> import tempfile, torch
        >>> from safetensors.torch import load_file
        >>> file = Path(tempfile.mkdtemp()) / "ones.safetensors"
        >>> save_tensors({"ones": torch.ones(2)}, file, {"format": "example"})
        >>> load_file(file)
        {'ones': tensor([1., 1.])}
    """
    from safetensors.torch import save

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as partial:
        partial.write_bytes(save(arrays, dict(metadata)))
