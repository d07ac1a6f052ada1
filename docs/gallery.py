"""The pictures of the README: package photos restyled both ways by the shipped weights.

python docs/gallery.py            writes docs/gallery.jpg, in a quarter of an hour: for comparison
                                  the last column is an iterative solver's
"""

from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw

from fastfcs import Stylizer, images
from fastfcs.evaluation.methods import PROJECTED
from fastfcs.optimize import optimize
from fastfcs.vgg import VGG19, load_vgg19

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
COLUMNS = ("content", "style", "artistic", "photoreal", "projected gradient")
HEIGHT, GAP, TITLE = 240, 6, 26


def photo(name: str) -> Image.Image:
    """A photo of skimage.data, its long side at most 768 pixels."""
    motorcycle = name == "motorcycle"
    pixels = skimage.data.stereo_motorcycle()[0] if motorcycle else getattr(skimage.data, name)()
    image = Image.fromarray(pixels)
    image.thumbnail((768, 768), Image.Resampling.LANCZOS)
    return image


def descended(picture: Image.Image, reference: Image.Image, vgg: VGG19) -> Image.Image:
    content, style = (images.from_samples(images.samples_of(i))[None] for i in (picture, reference))
    result = optimize(
        content,
        style,
        precision="bfloat16",
        vgg=vgg,
        **PROJECTED,
    )
    return Image.fromarray(images.to_samples(result[0], 8))


def scaled(image: Image.Image) -> Image.Image:
    size = (round(HEIGHT * image.width / image.height), HEIGHT)
    return image.resize(size, Image.Resampling.LANCZOS)


def main() -> None:
    vgg = load_vgg19()
    rows = []
    for content, style in PAIRS:
        picture, reference = photo(content), photo(style)
        stylizer = Stylizer(reference)
        painting = stylizer(picture)
        stylizer.constraint = "photoreal"
        descent = descended(picture, reference, vgg)
        rows.append((picture, reference, painting, stylizer(picture), descent))
    fitted = [[scaled(image) for image in row] for row in rows]
    widths = [max(row[k].width for row in fitted) for k in range(len(COLUMNS))]
    size = sum(widths) + (len(COLUMNS) - 1) * GAP, TITLE + len(rows) * (HEIGHT + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    left = 0
    for k, title in enumerate(COLUMNS):
        draw.text((left + 4, 4), title, fill="black", font_size=16)
        for row, pictures in enumerate(fitted):
            sheet.paste(pictures[k], (left, TITLE + row * (HEIGHT + GAP)))
        left += widths[k] + GAP
    sheet.save(Path(__file__).with_name("gallery.jpg"), quality=90)


if __name__ == "__main__":
    main()
