"""How the shipped weights do on content/style pairs: style taken over, structure kept.

python benchmarks/pairs.py FOLDER [--cutoff C] [--size S] [--pictures DIR] [--json OUT]

FOLDER holds contentNN.png, styleNN.png and perhaps luanNN.png, the published result for the pair
(of Luan et al., "Deep Photo Style Transfer", CVPR 2017). For each method, medians over the pairs of

    gram     mean over conv1_2 .. conv4_2 of ||G - S||^2 / ||S||^2, Gram matrices of VGG-19
    ratio    the same over the unchanged content's
    ssim     SSIM between the gradient magnitudes (Sobel, luma) of result and content
    energy   Tr(X^T L X) / (3 n), L the content's matting Laplacian, eps = 1e-7
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import sobel
from skimage.metrics import structural_similarity
from torch import Tensor

from fastfcs import MattingLaplacian, Stylizer, gram
from fastfcs.losses import gram_distance
from fastfcs.vgg import load_vgg19


def read(path: Path, size: int | None) -> Tensor:
    image = Image.open(path).convert("RGB")
    if size:
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def gradient_ssim(a: Tensor, b: Tensor) -> float:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    first, second = ((x[0] * luma).sum(0).numpy() for x in (a, b))
    magnitudes = [np.hypot(sobel(x, 0), sobel(x, 1)) / 4 for x in (first, second)]
    return float(structural_similarity(*magnitudes, data_range=1.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cutoff", type=float)
    parser.add_argument("--size", type=int, help="reduce pictures to this longer side")
    parser.add_argument("--weights", default="universal")
    parser.add_argument("--only", nargs="*", help="numbers of the pairs, default all")
    parser.add_argument("--pictures", type=Path, help="folder for the results")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    vgg = load_vgg19()
    found: dict[str, list[dict[str, float]]] = {}
    for path in sorted(options.folder.glob("content[0-9][0-9].png")):
        number = path.stem[-2:]
        if options.only and number not in options.only:
            continue
        content = read(path, options.size)
        style = read(options.folder / f"style{number}.png", options.size)
        laplacian = MattingLaplacian(content)
        outputs: dict[str, tuple[Tensor, float]] = {"content": (content, 0.0)}
        published = options.folder / f"luan{number}.png"
        if published.is_file():
            outputs["published"] = (read(published, options.size), 0.0)
        photoreal = {"constraint": "photoreal", "cutoff": options.cutoff}
        for name, extra in (("artistic", {}), ("photoreal", photoreal)):
            start = time.perf_counter()
            result = Stylizer(style, weights=options.weights, **extra)(content)
            outputs[name] = (result, time.perf_counter() - start)
        with torch.inference_mode():
            grams = {layer: gram(f) for layer, f in vgg(style).items()}
            unchanged = gram_distance(vgg(content), grams).item()
            for name, (image, seconds) in outputs.items():
                image = (
                    image
                    if image.shape == content.shape
                    else torch.nn.functional.interpolate(
                        image, content.shape[-2:], mode="bilinear", antialias=True
                    )
                )
                distance = gram_distance(vgg(image), grams).item()
                row = {
                    "gram": distance,
                    "ratio": distance / unchanged,
                    "ssim": gradient_ssim(image, content),
                    "energy": laplacian.energy(image).item() / content.numel(),
                    "seconds": seconds,
                }
                found.setdefault(name, []).append(row)
                print(number, f"{name:10}", *(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
                if options.pictures and name in ("artistic", "photoreal"):
                    options.pictures.mkdir(parents=True, exist_ok=True)
                    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
                    Image.fromarray(pixels).save(options.pictures / f"{name}{number}.png")
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    for name, row in medians.items():
        values = (f"{key} {value:.3g}" for key, value in row.items())
        print(f"median of {len(found[name])}", f"{name:10}", *values)
    if options.json:
        report = {"pairs": len(found["content"]), "torch": torch.__version__, "medians": medians}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
