"""The losses of neural style transfer: plain formulas, means over the batch.

Features F_l (B, c_l, H_l, W_l) are VGG-19's, n_l = H_l W_l;
Gram matrices S_l^T S_l / n'_l are (B, c_l, c_l).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

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


def relative_content_loss(features: Tensor, target: Tensor) -> Tensor:
    """||F - C||^2 / ||C||^2, a mean over the batch: `content_loss`, whatever VGG's scale."""
    return (squared_norm(features - target) / squared_norm(target)).mean()


def relative_style_loss(gram: Tensor, target: Tensor, before: Tensor) -> Tensor:
    """||G - S||^2 / (||S||^2 + ||G_C||^2) at one layer, (B, c_l, c_l) each; one an image, (B,).

    G_C is the unchanged content's: it keeps a dark style for a bright content from outweighing
    all else, as the squares alone do in `style_loss`.
    """
    return squared_norm(gram - target) / (squared_norm(target) + squared_norm(before))


def region_grams(features: Tensor, masks: Tensor) -> Tensor:
    """A Gram matrix a region (Luan et al. 2017), F^T diag(m_r) F / sum m_r: (R, c, c).

    Args:
        features: (1, c, h, w).
        masks: m, (R, H, W) in [0, 1], none of them empty; brought to h x w by area.
    """
    m = F.interpolate(masks[None], features.shape[-2:], mode="area")[0][:, None]
    pixels = features.shape[-2] * features.shape[-1]
    share = m.flatten(1).sum(1) / pixels
    return gram(features * m.sqrt()) / share.view(-1, 1, 1)


def matting_loss(laplacian: MattingLaplacian, image: Tensor) -> Tensor:
    """Tr(X^T L X) (Luan et al. 2017), L the content's matting Laplacian; summed over the batch."""
    return laplacian.energy(image).sum()


def structure_loss(image: Tensor, content: Tensor) -> Tensor:
    """1 - `gradient_ssim`: what is lost of the content's edges; a scalar in [0, 2]."""
    return 1 - gradient_ssim(image, content)


def gradient_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of the gradient magnitudes (Sobel, luma) of images (B, 3, H, W) in [0, 1]; a scalar.

    SSIM as scikit-image's: windows of 7 x 7, sample covariances, K1 = 0.01, K2 = 0.03, range 1.
    Differentiable; float64 keeps rounding out of its variances.
    """
    x, y = _gradient_magnitude(a), _gradient_magnitude(b)
    unbias = 49 / 48
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(z, 7, stride=1) for z in (x, y, x * x, y * y, x * y))
    var_x, var_y = unbias * (xx - mean_x**2), unbias * (yy - mean_y**2)
    covariance = unbias * (xy - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


def _gradient_magnitude(image: Tensor) -> Tensor:
    # Nothing here is copied from the host, which would wait for the device.
    red, green, blue = image.split(1, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    difference = torch.arange(-1, 2, dtype=image.dtype, device=image.device)
    across = (2 - difference.abs())[:, None] * difference / 4
    kernels = torch.stack([across, across.T])[:, None]
    gradient = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), kernels)
    return torch.linalg.vector_norm(gradient, dim=1, keepdim=True)


def gram_distance(features: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """Mean over l of ||F_l^T F_l / n_l - G_l||^2 / ||G_l||^2, without unit; one an image, (B,).

    The measure of how much of a style is taken over: 0 when every Gram matrix is the style's.
    """
    terms = [squared_norm(gram(features[k]) - g) / squared_norm(g) for k, g in grams.items()]
    return sum(terms) / len(terms)  # type: ignore[return-value]


def squared_norm(x: Tensor) -> Tensor:
    """||x_b||_F^2 of each batch element: (B, ...) -> (B,)."""
    return x.flatten(1).square().sum(1)
