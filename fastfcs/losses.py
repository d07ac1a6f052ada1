"""The losses of neural style transfer: plain formulas, means over the batch.

Features F_l (B, c_l, H_l, W_l) are VGG-19's, n_l = H_l W_l;
Gram matrices S_l^T S_l / n'_l are (B, c_l, c_l).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .laplacian import MattingLaplacian
from .ops import gram


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """L_c = 1/(n c) ||F - C||_F^2 (Gatys et al. 2016), F and C (B, c, H, W); a scalar."""
    return (features - target).square().mean()


def style_loss(features: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """L_s = 1/|I_s| sum_l 1/c_l^2 ||F_l^T F_l / n_l - G_l||_F^2 (Gatys et al. 2016); a scalar.

    The layers are those of ``grams``, each (B or 1, c_l, c_l).
    """
    terms = [(gram(features[layer]) - target).square().mean() for layer, target in grams.items()]
    return sum(terms) / len(terms)  # type: ignore[return-value]


def matting_loss(laplacian: MattingLaplacian, image: Tensor) -> Tensor:
    """Tr(X^T L X) (Luan et al. 2017), L the content's matting Laplacian; summed over the batch."""
    return laplacian.energy(image).sum()


def gram_distance(features: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """Mean over l of ||F_l^T F_l / n_l - G_l||^2 / ||G_l||^2, without unit; one an image, (B,).

    The measure of how much of a style is taken over: 0 when every Gram matrix is the style's.
    """
    terms = [squared_norm(gram(features[k]) - g) / squared_norm(g) for k, g in grams.items()]
    return sum(terms) / len(terms)  # type: ignore[return-value]


def squared_norm(x: Tensor) -> Tensor:
    """||x_b||_F^2 of each batch element: (B, ...) -> (B,)."""
    return x.flatten(1).square().sum(1)
