"""The pictures of the README: package photos restyled both ways by the shipped weights.

python docs/gallery.py            writes docs/gallery.jpg and docs/solvers.jpg

In the latter beside what the iterative solvers make of the same pairs, 100, 30 and 8 iterations
from coarse to fine: Gatys et al. on the network's own loss, and the projected gradient. That takes
half an hour.
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastfcs import Stylizer
from fastfcs.optimize import optimize

PAIRS = [
    ("chelsea", "rocket"),
    ("chelsea", "coffee"),
    ("astronaut", "immunohistochemistry"),
    ("astronaut", "chelsea"),
    ("coffee", "hubble_deep_field"),
    ("coffee", "retina"),
    ("rocket", "coffee"),
    ("rocket", "retina"),
    ("motorcycle", "retina"),
    ("motorcycle", "rocket"),
]
HEIGHT, GAP, TITLE = 300, 6, 26
SOLVER = {"steps": (100, 30, 8), "method": "adam", "precision": "bfloat16"}


def photo(name: str) -> Image.Image:
    """A photo of skimage.data, its long side at most 768 pixels."""
    motorcycle = name == "motorcycle"
    pixels = skimage.data.stereo_motorcycle()[0] if motorcycle else getattr(skimage.data, name)()
    image = Image.fromarray(pixels)
    image.thumbnail((768, 768), Image.Resampling.LANCZOS)
    return image


def scaled(image: Image.Image) -> Image.Image:
    size = (round(HEIGHT * image.width / image.height), HEIGHT)
    return image.resize(size, Image.Resampling.LANCZOS)


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def solved(content: Image.Image, style: Image.Image, **options: object) -> Image.Image:
    """What `optimize` makes of a pair."""
    result = optimize(tensor(content), tensor(style), **SOLVER, **options)
    return Image.fromarray((result[0] * 255).round().byte().movedim(0, -1).numpy())


def sheet(titles: list[str], rows: list[list[Image.Image]], path: Path) -> None:
    fitted = [[scaled(image) for image in row] for row in rows]
    widths = [max(row[k].width for row in fitted) for k in range(len(titles))]
    size = sum(widths) + (len(titles) - 1) * GAP, TITLE + len(rows) * (HEIGHT + GAP)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    left = 0
    for k, title in enumerate(titles):
        draw.text((left + 4, 4), title, fill="black", font_size=16)
        for row, images in enumerate(fitted):
            picture.paste(images[k], (left, TITLE + row * (HEIGHT + GAP)))
        left += widths[k] + GAP
    picture.save(path, quality=90)


def main() -> None:
    here, by_network, by_solver = Path(__file__).parent, [], []
    for content, style in PAIRS:
        picture, reference = photo(content), photo(style)
        stylizer = Stylizer(reference)
        painting = stylizer(picture)
        stylizer.constraint = "photoreal"
        by_network.append([picture, reference, painting, stylizer(picture)])
    sheet(["content", "style", "artistic", "photoreal"], by_network, here / "gallery.jpg")
    for picture, reference, painting, photograph in by_network:
        gatys = solved(picture, reference)
        options = {"constraint": "photoreal", "cutoff": 0.3}
        weights = {"style_weight": 75.0, "structure_weight": 10.0}
        projected = solved(picture, reference, **options, **weights)
        by_solver.append([painting, gatys, photograph, projected])
    titles = ["artistic", "Gatys et al.", "photoreal", "projected gradient"]
    sheet(titles, by_solver, here / "solvers.jpg")


if __name__ == "__main__":
    main()
