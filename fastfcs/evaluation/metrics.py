"""Measures of a result: distance to the style, preservation of structure, matting energy, LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import TypedDict

import torch
from torch import Tensor

from ..checks import MIN_SIDE
from ..laplacian import MattingLaplacian
from ..losses import gradient_ssim, gram_distance, region_grams
from ..ops import gram
from ..pyramid import reduce
from ..reproducible import squared_norm
from ..vgg import STYLE_LAYERS, VGG19
from .pairs import Pair

_SCALES = 4

Lpips = Callable[[Tensor, Tensor], float]

METRICS = {
    "gram": "Gram distance to the style",
    "multiscale_gram": "Gram distance, mean over scales",
    "ratio": "relative to the unchanged content",
    "region_gram": "Gram distance per region",
    "ssim": "SSIM of gradients",
    "energy": "energy Tr(XᵀLX)/3n",
    "lpips": "LPIPS to the content",
    "seconds": "seconds",
    "megabytes": "peak MB",
}
"""Labels of the measures of a row, by name."""


class Measures(TypedDict):
    """The measures of a result X of the content C.

    Attributes:
        gram: mean over l = conv1_2 ... conv4_2 of ||G_l - H_l||^2 / ||H_l||^2, Gram matrices of
            VGG-19's features of X and of the style.
        multiscale_gram: mean of ``scales``. Strokes that are large on a large picture are seen by
            VGG only where it is reduced.
        scales: gram of X and the style at their full size, at 1/2, 1/4 and 1/8 of it, as far as no
            side has fewer than 16 pixels.
        ratio: gram divided by the unchanged content's; None if that is 0.
        region_gram: like gram, but with one Gram matrix per region, of X's features inside the
            content's mask and of the style's inside its mask (Luan et al. 2017, eq. 6). It is the
            mean over the regions, weighted by their area in the content; None without masks.
        regions: region_gram of every region by the name of its colour.
        ssim: SSIM between the gradient magnitudes (Sobel, luma) of X and C.
        energy: Tr(X^T L X) / (3 n), with the content's matting Laplacian L, eps = 1e-7.
        lpips: LPIPS between X and C (Zhang et al. 2018, AlexNet); None if not installed.

    Examples:
        >>> from fastfcs.evaluation.metrics import Measures
        >>> list(Measures.__annotations__)
        ['gram', 'multiscale_gram', 'scales', 'ratio', 'region_gram', 'regions', 'ssim', 'energy', \
'lpips']
    """

    gram: float
    multiscale_gram: float
    scales: list[float]
    ratio: float | None
    region_gram: float | None
    regions: dict[str, float]
    ssim: float
    energy: float
    lpips: float | None


class Measure:
    """Measures results for one pair.

    Args:
        pair: the pair; the content's height and width must be at least 16 pixels.
        vgg: VGG-19, on the pair's device.
        lpips: see `load_lpips`; None leaves LPIPS out.

    Examples:
        >>> import torch
        >>> from fastfcs.evaluation.metrics import Measure
        >>> from fastfcs.evaluation.pairs import Pair
        >>> from fastfcs.vgg import load_vgg19
        >>> _ = torch.manual_seed(0)
        >>> pair = Pair("01", content=torch.rand(1, 3, 16, 16), style=torch.rand(1, 3, 16, 24))
        >>> measures = Measure(pair, load_vgg19())(pair.content)
        >>> round(measures["ssim"], 3), measures["ratio"], measures["region_gram"]
        (1.0, 1.0, None)
    """

    @torch.inference_mode()
    def __init__(self, pair: Pair, vgg: VGG19, lpips: Lpips | None = None) -> None:
        self._pair, self._vgg, self._lpips = pair, vgg, lpips
        self._laplacian = MattingLaplacian(pair.content)
        features = _style_features(vgg, pair.style)
        self._grams = {layer: gram(h) for layer, h in features.items()}
        smallest = min(*pair.content.shape[-2:], *pair.style.shape[-2:])
        self._reduced_grams = [
            {layer: gram(h) for layer, h in _style_features(vgg, reduce(pair.style, k)).items()}
            for k in range(1, _SCALES)
            if smallest >> k >= MIN_SIDE
        ]
        self._region_grams = {
            layer: region_grams(h, pair.regions.style)
            for layer, h in features.items()
            if pair.regions
        }
        self._unchanged = gram_distance(vgg(pair.content), self._grams).item()

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Measures:
        """Measure a result.

        Args:
            image: X, (1, 3, H, W) in [0, 1], of the content's size and on its device.

        Returns:
            The measures.
        """
        content = self._pair.content
        features = _style_features(self._vgg, image)
        distance = gram_distance(features, self._grams).item()
        scales = [distance] + [
            gram_distance(_style_features(self._vgg, reduce(image, k)), grams).item()
            for k, grams in enumerate(self._reduced_grams, start=1)
        ]
        by_region = self._by_region(features)
        return {
            "gram": distance,
            "multiscale_gram": mean(scales),
            "scales": scales,
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
            squared_norm(region_grams(features[layer], regions.content) - h) / squared_norm(h)
            for layer, h in self._region_grams.items()
        ]
        means = torch.stack(terms).mean(0).tolist()
        return dict(zip(regions.colours, means, strict=True))

    def _weighted(self, by_region: dict[str, float]) -> float | None:
        if self._pair.regions is None:
            return None
        areas: list[float] = self._pair.regions.content.mean((1, 2)).tolist()
        return sum(a * d for a, d in zip(areas, by_region.values(), strict=True)) / sum(areas)


def load_lpips(device: str = "cpu") -> Lpips:
    """Load LPIPS from the optional package lpips.

    Args:
        device: the device to compute on.

    Returns:
        A function of two images (1, 3, H, W) in [0, 1].

    Raises:
        RuntimeError: the package is not installed, or its network's weights are not available.

    Examples:
        >>> from fastfcs.evaluation.metrics import load_lpips
        >>> try:
        ...     lpips = load_lpips()
        ... except RuntimeError:
        ...     lpips = None
    """
    try:
        import lpips
    except ImportError as error:
        raise RuntimeError("LPIPS is left out: `pip install lpips` adds it") from error
    try:
        net = lpips.LPIPS(net="alex", verbose=False).to(device)
    except OSError as error:  # torchvision downloads AlexNet
        raise RuntimeError(
            f"LPIPS is left out: AlexNet's weights are not available: {error}"
        ) from error

    def distance(a: Tensor, b: Tensor) -> float:
        return float(net(2 * a - 1, 2 * b - 1).item())

    return distance


def _style_features(vgg: VGG19, image: Tensor) -> dict[str, Tensor]:
    features = vgg(image)
    return {layer: features[layer] for layer in STYLE_LAYERS}
