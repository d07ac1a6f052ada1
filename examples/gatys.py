"""Neural style transfer as Gatys et al. (2016) wrote it: Adam on lambda_c L_c + lambda_s L_s.

python examples/gatys.py PHOTO STYLE OUT [STEPS]      about half a second per step at 0.1 megapixels
The network replaces this loop; `fastfcs.solvers.solve` is the same with more options.
"""

import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastfcs import gram
from fastfcs.losses import content_loss, style_loss
from fastfcs.vgg import CONTENT_LAYER, STYLE_LAYERS, load_vgg19


def read(path: str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255


def main(photo: str, style: str, out: str, steps: str = "200", style_weight: float = 100.0) -> None:
    vgg, x = load_vgg19(), read(photo)
    target = vgg(x)[CONTENT_LAYER]
    grams = {layer: gram(h) for layer, h in vgg(read(style), STYLE_LAYERS).items()}
    optimizer = torch.optim.Adam([x.requires_grad_()], lr=0.02)
    for step in range(int(steps)):
        h = vgg(x.clamp(0, 1))
        loss = content_loss(h[CONTENT_LAYER], target) + style_weight * style_loss(h, grams)
        (x.grad,) = torch.autograd.grad(loss, x)
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4g}")
    pixels = (x.detach()[0].clamp(0, 1) * 255).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) >= 4 else sys.exit(__doc__)
