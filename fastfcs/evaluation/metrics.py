"""What is measured of a result, beside the content and the style."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..laplacian import MattingLaplacian
from ..losses import gradient_ssim, gram_distance, region_grams, squared_norm
from ..ops import gram
from ..vgg import STYLE_LAYERS, VGG19
from .pairs import Pair

Lpips = Callable[[Tensor, Tensor], float]

METRICS = {
    "gram": "Gram distance to the style",
    "ratio": "of the unchanged content's",
    "region_gram": "Gram distance by region",
    "ssim": "SSIM of gradients",
    "energy": "energy Tr(XᵀLX)/3n",
    "lpips": "LPIPS to the content",
    "seconds": "seconds",
    "megabytes": "peak MB",
}


class Measure:
    """The measures of results for one pair. Called with (1, 3, H, W) of the content's size:

    gram         mean over conv1_2 .. conv4_2 of ||G - S||^2 / ||S||^2, Gram matrices of VGG-19
    ratio        the same over the unchanged content's
    region_gram  the same as gram with one Gram matrix a region, G_r of the result's features under
                 the content's mask and S_r of the style's (Luan et al. 2017, eq. 6): mean over the
                 regions by their area in the content; None without masks
    regions      region_gram of each region by the name of its colour
    ssim         SSIM between the gradient magnitudes (Sobel, luma) of result and content
    energy       Tr(X^T L X) / (3 n), L the content's matting Laplacian, eps = 1e-7
    lpips        of result and content (Zhang et al. 2018, AlexNet); None where not installed
    """

    @torch.inference_mode()
    def __init__(self, pair: Pair, vgg: VGG19, lpips: Lpips | None = None) -> None:
        self._pair, self._vgg, self._lpips = pair, vgg, lpips
        self._laplacian = MattingLaplacian(pair.content)
        features = _style_features(vgg, pair.style)
        self._grams = {layer: gram(f) for layer, f in features.items()}
        self._region_grams = {
            layer: region_grams(f, pair.regions.style)
            for layer, f in features.items()
            if pair.regions
        }
        self._unchanged = gram_distance(vgg(pair.content), self._grams).item()

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> dict[str, Any]:
        content = self._pair.content
        features = _style_features(self._vgg, image)
        distance = gram_distance(features, self._grams).item()
        by_region = self._by_region(features)
        return {
            "gram": distance,
            "ratio": distance / self._unchanged if self._unchanged else None,
            "region_gram": self._weighted(by_region),
            "regions": by_region,
            "ssim": gradient_ssim(image.double(), content.double()).item(),
            "energy": self._laplacian.energy(image).item() / content.numel(),
            "lpips": self._lpips(image, content) if self._lpips else None,
        }

    def _by_region(self, features: dict[str, Tensor]) -> dict[str, float]:
        regions = self._pair.regions
        if regions is None:
            return {}
        terms = [
            squared_norm(region_grams(features[layer], regions.content) - g) / squared_norm(g)
            for layer, g in self._region_grams.items()
        ]
        means = torch.stack(terms).mean(0).tolist()
        return dict(zip(regions.colours, means, strict=True))

    def _weighted(self, by_region: dict[str, float]) -> float | None:
        if self._pair.regions is None:
            return None
        areas = self._pair.regions.content.mean((1, 2)).tolist()
        return sum(a * d for a, d in zip(areas, by_region.values(), strict=True)) / sum(areas)


def load_lpips(device: str = "cpu") -> Lpips:
    """LPIPS of the package lpips.

    Raises:
        RuntimeError: it is not installed, or its network's weights are not to be had.
    """
    try:
        import lpips
    except ImportError as error:
        raise RuntimeError("LPIPS is left out: `pip install lpips` adds it") from error
    try:
        net = lpips.LPIPS(net="alex", verbose=False).to(device)
    except OSError as error:  # torchvision downloads AlexNet
        raise RuntimeError(f"LPIPS is left out: AlexNet's weights: {error}") from error
    return lambda a, b: net(2 * a - 1, 2 * b - 1).item()


def _style_features(vgg: VGG19, image: Tensor) -> dict[str, Tensor]:
    features = vgg(image)
    return {layer: features[layer] for layer in STYLE_LAYERS}
