"""A sheet of pictures that shows what a network does."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..network import UnrolledSolver


@torch.no_grad()
def write_sheet(
    solver: UnrolledSolver, contents: list[Tensor], styles: list[Tensor], path: Path
) -> None:
    """Styles across the top, contents down the side, results between them."""
    cell = max(max(image.shape[-2:]) for image in contents + styles)
    sheet = Image.new("RGB", (cell * (len(styles) + 1), cell * (len(contents) + 1)), "white")

    def paste(image: Tensor, column: int, row: int) -> None:
        pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        sheet.paste(Image.fromarray(pixels), (column * cell, row * cell))

    for column, style in enumerate(styles, start=1):
        paste(style, column, 0)
        statistics = solver.statistics(style)
        for row, content in enumerate(contents, start=1):
            paste(content, 0, row)
            paste(solver(content, statistics), column, row)
    partial = path.with_suffix(".part")
    sheet.save(partial, "PNG", compress_level=1)  # while a GPU waits
    partial.replace(path)
