"""How true a look is: colours edited in a known way.

python benchmarks/known_edits.py PHOTOS [--seed 7]

The content is the left half of a photograph, the style the right half of the edited photograph, and
the truth the left half edited. Edits are random: exposure as a power, white balance, an offset per
channel, saturation, contrast, and a tint of the light tones. Of the folder PHOTOS the 30 before the
last 20 are used, at 384 x 256 pixels. Writes the medians to benchmarks/results/known-edits.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from pathlib import Path

import numpy as np
import torch
from color_matcher import ColorMatcher
from numpy.typing import NDArray
from PIL import Image
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab

from fastfcs import Stylizer
from fastfcs.files import write_text
from fastfcs.images import list_images

RESULTS = Path(__file__).parent / "results/known-edits.json"
COUNT, SIZE = 30, (384, 256)

Picture = NDArray[np.float64]


def edited(photo: Picture, random: np.random.Generator) -> Picture:
    """Edit a photograph (H, W, 3) in [0, 1]."""
    exposure, warmth, *offset, saturation, contrast, tint = random.normal(size=8)
    x = photo ** np.exp(0.35 * exposure)
    x = x * (1 + 0.12 * np.array([warmth, 0, -warmth])) + 0.03 * np.array(offset)
    lab = rgb2lab(x.clip(0, 1))
    lab[..., 1:] *= np.exp(0.3 * saturation)
    light = lab[..., 0] / 100
    curve = light + 0.12 * contrast * np.sin(2 * np.pi * light) / 2
    lab[..., 0] = 100 * curve.clip(0, 1)
    lab[..., 1] += 4 * tint * light
    return lab2rgb(lab).clip(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seed", type=int, nargs="+", default=[7, 1, 2])
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # colours outside sRGB
    stylizer = Stylizer(constraint="photoreal")
    report = {}
    for seed in options.seed:
        random, found = np.random.default_rng(seed), {}
        for path in list_images(options.photos)[-COUNT - 20 : -20]:
            photo = np.asarray(Image.open(path).convert("RGB").resize(SIZE, Image.LANCZOS)) / 255
            edit, half = edited(photo, random), SIZE[0] // 2
            content, style, truth = photo[:, :half], edit[:, half:], edit[:, :half]
            with torch.inference_mode():
                stylizer.set_style(np.ascontiguousarray(style.astype(np.float32)))
                given = np.ascontiguousarray(content.astype(np.float32))
                results = {
                    "unchanged": content,
                    "photoreal": stylizer(given),
                    "look": stylizer.look(given)(given),
                }
            results["color-matcher, mkl"] = ColorMatcher().transfer(
                src=content, ref=style, method="mkl"
            )
            for name, result in results.items():
                x = np.asarray(result, dtype=float).clip(0, 1)
                psnr = -10 * np.log10(((x - truth) ** 2).mean())
                difference = deltaE_ciede2000(rgb2lab(x), rgb2lab(truth)).mean()
                found.setdefault(name, []).append((psnr, difference))
        report[str(seed)] = {
            name: [statistics.median(column) for column in zip(*values, strict=True)]
            for name, values in found.items()
        }
        for name, values in report[str(seed)].items():
            print(seed, name, *(round(value, 2) for value in values), flush=True)
    write_text(RESULTS, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
