"""A custom constraint: shadows keep the photograph's colours, everything else is painted.

python examples/constraint.py PHOTO STYLE OUT         STYLE is a picture or a preset

A constraint is any callable X -> X on images (B, 3, H, W). The network applies it after each of
its updates, so the later updates adapt to it; blending the finished painting would not do that.
"""

import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastfcs import Stylizer


class KeepShadows:
    """X <- m X + (1 - m) C, where m rises from 0 in black to 1 at the given luminance of C."""

    def __init__(self, content: Tensor, luminance: float = 0.4) -> None:
        self.content = content
        self.m = (content.mean(1, keepdim=True) / luminance).clamp(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.lerp(self.content.to(x), x, self.m.to(x))


def main(photo: str, style: str, out: str) -> None:
    image = Image.open(photo).convert("RGB")
    content = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    Stylizer(style, constraint=KeepShadows(content))(image).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) >= 4 else sys.exit(__doc__)
