"""The figure of docs/limitations.md: failures, made from package photographs.

python docs/limitations.py        writes docs/limitations.jpg
"""

import io
from pathlib import Path

from pictures import Row, grid, photo
from PIL import Image

from fastfcs import Stylizer

SIZE = (300, 200)


def photoreal(content: Image.Image, style: Image.Image, **options: float) -> Image.Image:
    """The content in the style of another photograph."""
    return Stylizer(style, constraint="photoreal", **options)(content)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG compression of this quality."""
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality)
    return Image.open(buffer).convert("RGB")


def night() -> Row:
    """A day whose reference is a night becomes a dusk."""
    day, stars = photo("china"), photo("hubble_deep_field")
    return [
        ("a day", day),
        ("a night as reference", stars),
        ("photoreal: dusk, no stars", photoreal(day, stars)),
        ("cutoff 0.1: brown patch, halos", photoreal(day, stars, cutoff=0.1)),
    ]


def no_such_region() -> Row:
    """Without a face in the reference, a face glows in its colours; its hue alone is bounded."""
    portrait, coffee = photo("astronaut"), photo("coffee")
    result = photoreal(portrait, coffee)
    face = (0.28, 0.02, 0.62, 0.28)
    return [
        ("a portrait", portrait),
        ("no face in the reference", coffee),
        ("photoreal: glowing skin", result),
        ("detail", detail(result, face)),
    ]


def empty_sky() -> Row:
    """A painting's texture and lines appear where the photograph is empty."""
    rocket = photo("rocket")
    result = Stylizer("mondrian")(rocket)
    sky = (0.3, 0.25, 0.7, 0.65)
    return [
        ("an empty sky", rocket),
        ("detail", detail(rocket, sky)),
        ("mondrian: lines in the sky", result),
        ("detail", detail(result, sky)),
    ]


def blocks() -> Row:
    """The blocks of a JPEG appear when a dark sky becomes bright."""
    rocket, day = compressed(photo("rocket", 640), 40), photo("china")
    result = photoreal(rocket, day)
    sky = (0.47, 0.2, 0.7, 0.42)
    return [
        ("a JPEG of quality 40", rocket),
        ("a bright reference", day),
        ("photoreal: a white patch", result),
        ("detail: the blocks of the JPEG", detail(result, sky)),
    ]


def detail(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """The part of an image between fractions (left, top, right, bottom) of its sides."""
    sides = 2 * image.size
    return image.crop([round(k * side) for k, side in zip(box, sides, strict=True)])


def main() -> None:
    """Write docs/limitations.jpg."""
    rows = [night(), no_such_region(), empty_sky(), blocks()]
    grid(rows, SIZE).save(Path(__file__).with_name("limitations.jpg"), quality=90)


if __name__ == "__main__":
    main()
