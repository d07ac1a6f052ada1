"""The figure of docs/solvers.md: the network and the iterative solvers that it replaces.

python docs/solvers.py            writes docs/solvers.jpg, in about ten minutes on a CPU

Both solvers run 100, 30 and 8 iterations of Adam, from coarse to fine. "Gatys et al." minimises the
network's own loss; docs/solvers.md describes "projected gradient".
"""

from pathlib import Path

import numpy as np
import torch
from pictures import Row, grid, photo
from PIL import Image
from torch import Tensor

from fastfcs import Stylizer
from fastfcs.solvers import solve

PAIRS = [("china", "coffee"), ("chelsea", "rocket"), ("motorcycle", "flower")]
SIZE = (300, 200)


def to_tensor(image: Image.Image) -> Tensor:
    """An image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def solved(content: Image.Image, style: Image.Image, **options: object) -> Image.Image:
    """The result of an iterative solver."""
    options |= {"steps": (100, 30, 8), "method": "adam"}
    result = solve(to_tensor(content), to_tensor(style), **options)  # type: ignore[arg-type]
    return Image.fromarray((result[0] * 255).round().byte().movedim(0, -1).numpy())


def compared(content: Image.Image, style: Image.Image) -> Row:
    """Both solvers and both modes of the network, on one pair."""
    projected = {"constraint": "photoreal", "cutoff": 0.3}
    weights = {"style_weight": 75.0, "structure_weight": 10.0}
    return [
        ("photograph", content),
        ("reference", style),
        ("fastfcs, artistic", Stylizer(style)(content)),
        ("Gatys et al.", solved(content, style)),
        ("fastfcs, photoreal", Stylizer(style, constraint="photoreal")(content)),
        ("projected gradient", solved(content, style, **projected, **weights)),
    ]


def main() -> None:
    """Write docs/solvers.jpg."""
    rows = [compared(photo(content), photo(style)) for content, style in PAIRS]
    grid(rows, SIZE).save(Path(__file__).with_name("solvers.jpg"), quality=88)


if __name__ == "__main__":
    main()
