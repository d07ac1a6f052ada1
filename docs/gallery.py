"""The pictures of the README: package photos restyled both ways by the shipped weights.

python docs/gallery.py            writes docs/gallery.jpg
"""

from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw

from fastfcs import Stylizer

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


def main() -> None:
    rows = []
    for content, style in PAIRS:
        picture, reference = photo(content), photo(style)
        stylizer = Stylizer(reference)
        painting = stylizer(picture)
        stylizer.constraint = "photoreal"
        rows.append((picture, reference, painting, stylizer(picture)))
    fitted = [[scaled(image) for image in row] for row in rows]
    widths = [max(row[k].width for row in fitted) for k in range(4)]
    sheet = Image.new("RGB", (sum(widths) + 3 * GAP, TITLE + len(rows) * (HEIGHT + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    left = 0
    for k, title in enumerate(("content", "style", "artistic", "photoreal")):
        draw.text((left + 4, 4), title, fill="black", font_size=16)
        for row, images in enumerate(fitted):
            sheet.paste(images[k], (left, TITLE + row * (HEIGHT + GAP)))
        left += widths[k] + GAP
    sheet.save(Path(__file__).with_name("gallery.jpg"), quality=90)


if __name__ == "__main__":
    main()
