"""The pictures by which presets are chosen on the page of `fastfcs app`: a cat in each style.

python docs/thumbnails.py         writes fastfcs/app/presets/*.webp, in a minute on a CPU
"""

from pathlib import Path

import torch
from pictures import photo
from PIL import ImageOps

from fastfcs import Stylizer, presets

FOLDER = Path(__file__).parents[1] / "fastfcs/app/presets"
SIZE = 168, 126

if __name__ == "__main__":
    cat = photo("chelsea", 451).crop((90, 0, 390, 225))
    for name in presets.names():
        with torch.inference_mode():
            painting = Stylizer(name, refine=True)(cat)
        ImageOps.fit(painting, SIZE).save(FOLDER / f"{name}.webp", quality=75, method=6)
