"""A contact sheet of a network's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..files import atomic
from ..network import UnrolledSolver
from ..stylizer import Stylizer


@torch.no_grad()
def write_preview(
    solver: UnrolledSolver, contents: Sequence[Tensor], styles: Sequence[Tensor], path: Path
) -> None:
    """Write a PNG with the styles across the top, the contents down the side, and all results.

    Args:
        solver: the network.
        contents, styles: images (1, 3, H, W) of any size, on the network's device.
        path: the file to write, atomically.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from PIL import Image
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.training.preview import write_preview
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "preview.png"
        >>> write_preview(UnrolledSolver(channels=(8, 8)), [torch.rand(1, 3, 16, 16)],
        ...     [torch.rand(1, 3, 16, 20)], file)
        >>> Image.open(file).size
        (40, 40)
    """
    cell = max(max(image.shape[-2:]) for image in [*contents, *styles])
    sheet = Image.new("RGB", (cell * (len(styles) + 1), cell * (len(contents) + 1)), "white")

    def paste(image: Tensor, column: int, row: int) -> None:
        pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        sheet.paste(Image.fromarray(pixels), (column * cell, row * cell))

    for column, style in enumerate(styles, start=1):
        paste(style, column, 0)
        stylizer = Stylizer(style, weights=solver)
        for row, content in enumerate(contents, start=1):
            paste(content, 0, row)
            paste(stylizer(content), column, row)
    with atomic(path) as partial:
        sheet.save(partial, "PNG", compress_level=1)  # fast, since a GPU waits
