"""The pictures of docs/controls.md: package photos, shipped weights and presets.

python docs/controls.py           writes docs/controls.jpg
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw

from fastfcs import Stylizer

SIDE, TITLE = 300, 22
SCREAM, STARRY = "the-scream", "starry-night"


def photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def rows(content: Image.Image) -> list[list[tuple[str, Image.Image]]]:
    """Each control: what it was set to, and the result."""
    both = Stylizer().set_style([SCREAM, STARRY])
    across = torch.linspace(0, 1, content.width).mul(6).sub(2.5).clamp(0, 1)  # a soft border
    right = across.expand(1, content.height, content.width)

    def blend(share: float) -> Image.Image:
        stylizer = Stylizer().set_style([SCREAM, STARRY], blend=[1 - share, share])
        return stylizer(content)

    tissue = photo("immunohistochemistry")
    return [
        [
            (f"{name}, {how}", Stylizer(name, refine=how == "refined")(content))
            for name in ("udnie", "mondrian")
            for how in ("as it is", "refined")
        ],
        [(f"strength {s}", Stylizer(SCREAM, strength=s)(content)) for s in (0.25, 0.5, 0.75, 1.0)],
        [(f"blend {1 - s:g}, {s:g}", blend(s)) for s in (0.0, 0.3, 0.7, 1.0)],
        [("style", tissue)]
        + [(f"brush {b}", Stylizer(tissue, brush=b)(content)) for b in (0.5, 1.0, 2.5)],
        [
            ("content", content),
            ("keep-colour", Stylizer(STARRY, constraint="keep-colour")(content)),
            ("keep-luminance", Stylizer(STARRY, constraint="keep-luminance")(content)),
            ("two regions", both(content, torch.cat([1 - right, right]))),
        ],
    ]


def main() -> None:
    found = rows(photo("astronaut"))
    sheet = Image.new("RGB", (4 * SIDE, len(found) * (SIDE + TITLE)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(found):
        for x, (title, image) in enumerate(row):
            corner = x * SIDE, y * (SIDE + TITLE)
            draw.text((corner[0] + 4, corner[1] + 3), title, fill="black", font_size=14)
            small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(Image.fromarray(np.asarray(small)), (corner[0], corner[1] + TITLE))
    sheet.save(Path(__file__).with_name("controls.jpg"), quality=90)


if __name__ == "__main__":
    main()
