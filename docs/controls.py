"""The figure of docs/controls.md: a package photograph, shipped weights and presets.

python docs/controls.py           writes docs/controls.jpg
"""

from pathlib import Path

import numpy as np
import torch
from drawings import mosaic
from pictures import Row, grid, photo
from PIL import Image

from fastfcs import Stylizer

SIZE = (300, 200)
SCREAM, STARRY = "the-scream", "starry-night"


def blended(content: Image.Image, second: float) -> Image.Image:
    """The content in a blend of two presets; ``second`` is the weight of the second one."""
    stylizer = Stylizer().set_style([SCREAM, STARRY], blend=[1 - second, second])
    return stylizer(content)


def in_two_regions(content: Image.Image) -> Image.Image:
    """The content in one preset on the left and another on the right, with a soft border."""
    right = torch.linspace(0, 1, content.width).mul(6).sub(2.5).clamp(0, 1)
    right = right.expand(1, content.height, content.width)
    return Stylizer().set_style([SCREAM, STARRY])(content, torch.cat([1 - right, right]))


def rows(content: Image.Image, style: Image.Image) -> list[Row]:
    """One row per control; the captions name its settings."""
    return [
        [
            (f"{name}{', refined' if refine else ''}", Stylizer(name, refine=refine)(content))
            for name in ("udnie", "mondrian")
            for refine in (False, True)
        ],
        [(f"strength {s}", Stylizer(SCREAM, strength=s)(content)) for s in (0.25, 0.5, 0.75, 1.0)],
        [(f"blend {1 - s:g}, {s:g}", blended(content, s)) for s in (0.0, 0.3, 0.7, 1.0)],
        [
            ("style", style),
            *((f"brush {b}", Stylizer(style, brush=b)(content)) for b in (0.5, 1.0, 2.0)),
        ],
        [
            ("content", content),
            ("keep-colour", Stylizer(STARRY, constraint="keep-colour")(content)),
            ("keep-luminance", Stylizer(STARRY, constraint="keep-luminance")(content)),
            ("two regions", in_two_regions(content)),
        ],
    ]


def main() -> None:
    """Write docs/controls.jpg."""
    tiles = Image.fromarray((mosaic() * 255).round().astype(np.uint8))
    sheet = grid(rows(photo("china"), tiles), SIZE)
    sheet.save(Path(__file__).with_name("controls.jpg"), quality=90)


if __name__ == "__main__":
    main()
