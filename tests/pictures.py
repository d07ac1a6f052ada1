"""Pictures to test on: noise, and photographs that the scikit-image wheel itself carries."""

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # Rec. 601


def load_photo(name: str, size: int) -> Tensor:
    """A photo of skimage.data, (1,3,H,W) float64, 8-bit values in [0,1], longer side `size` px."""
    photo = Image.fromarray(getattr(skimage.data, name)())
    scale = size / max(photo.size)
    resized = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].double() / 255


def stretched_photo(name: str, height: int, width: int) -> Tensor:
    """A photo of skimage.data, (1,3,height,width) float32 in [0,1], whatever its proportions."""
    photo = Image.fromarray(getattr(skimage.data, name)()).resize((width, height))
    return torch.from_numpy(np.array(photo)).movedim(-1, 0)[None] / 255


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Independent values, uniform in [0,1], float32."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
