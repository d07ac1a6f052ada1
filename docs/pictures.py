"""Package photographs and captioned grids, for the scripts in this folder that make figures.

The photographs are those of scikit-image and scikit-learn: pip install '.[docs]'
"""

from collections.abc import Sequence

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageOps

GAP, TITLE, FONT = 6, 22, 15

Row = Sequence[tuple[str, Image.Image]]


def photo(name: str, side: int = 512) -> Image.Image:
    """A photograph by name, reduced to this longer side."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    elif name == "motorcycle":
        pixels = skimage.data.stereo_motorcycle()[0]
    else:
        pixels = getattr(skimage.data, name)()
    image = Image.fromarray(np.asarray(pixels))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def grid(rows: Sequence[Row], size: tuple[int, int]) -> Image.Image:
    """Captioned images in rows, each cropped to the shape of ``size`` and resized to it."""
    width, height = size[0] + GAP, size[1] + TITLE + GAP
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * width - GAP, len(rows) * height - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (caption, image) in enumerate(row):
            left, top = x * width, y * height
            draw.text((left + 2, top + 3), caption, fill="black", font_size=FONT)
            sheet.paste(ImageOps.fit(image, size, Image.Resampling.LANCZOS), (left, top + TITLE))
    return sheet
