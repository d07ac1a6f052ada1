"""The losses and measures of neural style transfer, written as plain formulas.

Features h_l are VGG-19's, (B,c_l,H_l,W_l), with n_l = H_l W_l. Gram matrices are (B,c_l,c_l):
G_l = h_l^T h_l / n_l of the image X, H_l of the style and G_l^C of the content C.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from .laplacian import MattingLaplacian
from .ops import gram
from .reproducible import squared_norm

_LUMA = 0.299, 0.587, 0.114
_WINDOW = 7  # side of SSIM's windows in pixels
_MEAN = (1 / _WINDOW,) * _WINDOW
_SMOOTH, _DIFFERENCE = (0.25, 0.5, 0.25), (-1.0, 0.0, 1.0)  # Sobel's operator is their product
_UNBIAS = _WINDOW**2 / (_WINDOW**2 - 1)  # from the mean square to the sample variance


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Compute Gatys et al.'s (2016) content loss, L_c = 1/(n_l c_l) ||h_l - h_l^C||^2.

    Args:
        features: h_l, (B,c_l,H_l,W_l).
        target: h_l^C, the content's, of the same shape.

    Returns:
        A scalar, the mean over the batch.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import content_loss
        >>> content_loss(torch.ones(2, 8, 4, 5), torch.zeros(2, 8, 4, 5))
        tensor(1.)
    """
    return (features - target).square().mean()


def style_loss(features: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """Compute Gatys et al.'s (2016) style loss, the mean over l of 1/c_l^2 ||G_l - H_l||^2.

    Args:
        features: h_l by layer, (B,c_l,H_l,W_l). Layers without a target are ignored.
        grams: H_l by layer, (B,c_l,c_l) or (1,c_l,c_l).

    Returns:
        A scalar, the mean over the batch.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import style_loss
        >>> style_loss({"conv1_2": torch.ones(1, 8, 4, 5)}, {"conv1_2": torch.zeros(1, 8, 8)})
        tensor(1.)
    """
    terms = [(gram(features[layer]) - target).square().mean() for layer, target in grams.items()]
    return _mean(terms)


def relative_content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Compute ||h_l - h_l^C||^2 / ||h_l^C||^2, a `content_loss` independent of VGG's scale.

    Args:
        features: h_l, (B,c_l,H_l,W_l).
        target: h_l^C, the content's, of the same shape.

    Returns:
        A scalar, the mean over the batch.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import relative_content_loss
        >>> target = torch.rand(1, 8, 4, 5)
        >>> round(relative_content_loss(1.5 * target, target).item(), 3)
        0.25
    """
    return (squared_norm(features - target) / squared_norm(target)).mean()


def relative_style_loss(gram: Tensor, target: Tensor, content: Tensor) -> Tensor:
    """Compute ||G_l - H_l||^2 / (||H_l||^2 + ||G_l^C||^2) at one layer.

    Dividing by the content's norm as well keeps a dark style on a bright content from outweighing
    all other terms, as it would in `style_loss`.

    Args:
        gram: G_l, (B,c_l,c_l).
        target: H_l, the style's, of the same shape.
        content: G_l^C, the unchanged content's, of the same shape.

    Returns:
        One number per image, (B,).

    Examples:
        >>> import torch
        >>> from fastfcs.losses import relative_style_loss
        >>> gram = torch.rand(2, 8, 8)
        >>> relative_style_loss(gram, torch.zeros_like(gram), gram)
        tensor([1., 1.])
    """
    return squared_norm(gram - target) / (squared_norm(target) + squared_norm(content))


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Resize masks by averaging over areas: each pixel becomes the covered fraction of its area.

    Args:
        masks: (R,H,W), floating.
        size: the new height h and width w, in pixels.

    Returns:
        (R,h,w).

    Examples:
        >>> import torch
        >>> from fastfcs.losses import resize_masks
        >>> resize_masks(torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]), (1, 2))
        tensor([[[1.0000, 0.5000]]])
    """
    return F.interpolate(masks.unsqueeze(0), list(size), mode="area").squeeze(0)


def resize_weights(
    regions: Tensor | None, alpha: Tensor | None, size: Sequence[int]
) -> tuple[Tensor | None, Tensor | None]:
    """Resize what weights the pixels of a content, as `resize_masks` does.

    Args:
        regions: masks (R,H,W), or None.
        alpha: (B,1,H,W), or None.
        size: the new height h and width w, in pixels.

    Returns:
        Both, (R,h,w) and (B,1,h,w), or None in their place.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import resize_weights
        >>> masks, alpha = resize_weights(None, torch.ones(1, 1, 6, 8), (3, 4))
        >>> masks, alpha.shape
        (None, torch.Size([1, 1, 3, 4]))
    """
    masks = None if regions is None else resize_masks(regions, size)
    return masks, None if alpha is None else resize_masks(alpha.squeeze(1), size).unsqueeze(1)


def visible_masks(regions: Tensor | None, alpha: Tensor | None) -> Tensor | None:
    """Compute the weights of pixels in Gram matrices: regions times alpha.

    Args:
        regions: masks (R,H,W) of a single image, or None.
        alpha: (B,1,H,W), with regions (1,1,H,W), or None.

    Returns:
        (R,H,W); alpha alone, (B,H,W), without regions; None, equal weights, without either.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import visible_masks
        >>> visible_masks(torch.ones(2, 16, 16), torch.full((1, 1, 16, 16), 0.5)).mean((1, 2))
        tensor([0.5000, 0.5000])
    """
    if alpha is None:
        return regions
    weights = alpha.squeeze(1)
    return weights if regions is None else regions * weights.to(regions)


def region_grams(features: Tensor, masks: Tensor) -> Tensor:
    """Compute one Gram matrix per region (Luan et al. 2017), h_l^T diag(m_r) h_l / sum m_r.

    Args:
        features: h_l, (1,c_l,H_l,W_l), or (R,c_l,H_l,W_l) with one mask per image.
        masks: m, (R,H,W) in [0,1], of any size. The Gram matrix of an empty mask is 0.

    Returns:
        (R,c_l,c_l).

    Examples:
        >>> import torch
        >>> from fastfcs import gram
        >>> from fastfcs.losses import region_grams
        >>> features = torch.rand(1, 8, 4, 6)
        >>> left = torch.zeros(1, 4, 6)
        >>> left[..., :3] = 1
        >>> torch.allclose(region_grams(features, left), gram(features[..., :3]))
        True
    """
    m = resize_masks(masks, features.shape[-2:])
    return gram(features * m.unsqueeze(1).sqrt()) / mask_shares(m).view(-1, 1, 1)


def mask_shares(masks: Tensor) -> Tensor:
    """Compute the share of the pixels that each mask covers.

    Args:
        masks: m, (R,H,W) in [0,1].

    Returns:
        (R,); 1 for an empty mask, by which a Gram matrix of 0 can be divided.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import mask_shares
        >>> mask_shares(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]))
        tensor([0.5000, 1.0000])
    """
    share = masks.flatten(1).sum(1) / (masks.shape[-2] * masks.shape[-1])
    return share + (share == 0)


def matting_loss(laplacian: MattingLaplacian, image: Tensor) -> Tensor:
    """Compute Luan et al.'s (2017) photorealism penalty, Tr(X^T L X).

    Args:
        laplacian: L, the content's matting Laplacian.
        image: X, (B,3,H,W).

    Returns:
        A scalar, the sum over the batch.

    Raises:
        ValueError: X does not match L's image.

    Examples:
        >>> import torch
        >>> from fastfcs import MattingLaplacian
        >>> from fastfcs.losses import matting_loss
        >>> content = torch.rand(1, 3, 8, 9, dtype=torch.float64)
        >>> matting_loss(MattingLaplacian(content), content).item() < 1e-4
        True
    """
    return laplacian.energy(image).sum()


def structure_loss(image: Tensor, content: Tensor) -> Tensor:
    """Compute 1 - `gradient_ssim`, which penalises changes of the content's edges.

    Args:
        image, content: (B,3,H,W) in [0,1], H and W at least 7.

    Returns:
        A scalar in [0,2].

    Examples:
        >>> import torch
        >>> from fastfcs.losses import structure_loss
        >>> content = torch.rand(1, 3, 16, 16, dtype=torch.float64)
        >>> round(structure_loss(content, content).item(), 6)
        0.0
    """
    return 1 - gradient_ssim(image, content)


def gradient_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Compute the SSIM of the gradient magnitudes (Sobel, of luma) of two images.

    SSIM is scikit-image's: windows of 7 x 7, sample covariances, K1 = 0.01, K2 = 0.03, range 1.
    It is differentiable. Use float64 if the rounding of small variances matters.

    Args:
        a, b: (B,3,H,W) in [0,1], H and W at least 7.

    Returns:
        A scalar in [-1,1], the mean over the batch.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import gradient_ssim
        >>> image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
        >>> round(gradient_ssim(image, 1 - image).item(), 6)
        1.0
    """
    x, y = (torch.linalg.vector_norm(_sobel(z), dim=1, keepdim=True) for z in (a, b))
    return _Ssim(x, y).map().mean()


def structure_gradient(image: Tensor, content: Tensor) -> Tensor:
    """Compute the gradient of `structure_loss` with respect to each image, without autograd.

    Args:
        image, content: (B,3,H,W) in [0,1], H and W at least 7.

    Returns:
        (B,3,H,W): the gradient of each image's own loss.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import structure_gradient, structure_loss
        >>> x = torch.rand(1, 3, 9, 8, dtype=torch.float64, requires_grad=True)
        >>> content = torch.rand(1, 3, 9, 8, dtype=torch.float64)
        >>> (wanted,) = torch.autograd.grad(structure_loss(x, content), x)
        >>> torch.allclose(structure_gradient(x.detach(), content), wanted)
        True
    """
    sobel = _sobel(image)
    x, y = (z.square().sum(1, keepdim=True).sqrt() for z in (sobel, _sobel(content)))
    direction = sobel / (x + (x == 0))
    across, down = (_Ssim(x, y).gradient() * direction).split(1, 1)
    g = _spread(_spread(across, _SMOOTH, 2), _DIFFERENCE, 3)
    g = g + _spread(_spread(down, _SMOOTH, 3), _DIFFERENCE, 2)
    for dim in (2, 3):  # the border was replicated
        first, inner, last = g.split([2, g.shape[dim] - 4, 2], dim)
        g = torch.cat([first.sum(dim, keepdim=True), inner, last.sum(dim, keepdim=True)], dim)
    return -torch.cat([weight * g for weight in _LUMA], 1)


class _Ssim:
    """SSIM of two positive images of one channel, and the gradient of its mean in the first."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x, y
        mean_x, mean_y, xx, yy, xy = (
            _correlate(_correlate(z, _MEAN, 2), _MEAN, 3) for z in (x, y, x * x, y * y, x * y)
        )
        var_x, var_y = _UNBIAS * (xx - mean_x**2), _UNBIAS * (yy - mean_y**2)
        covariance = _UNBIAS * (xy - mean_x * mean_y)
        c1, c2 = 0.01**2, 0.03**2
        self._mean_x, self._mean_y = mean_x, mean_y
        self._luminance = 2 * mean_x * mean_y + c1, mean_x**2 + mean_y**2 + c1
        self._contrast = 2 * covariance + c2, var_x + var_y + c2

    def map(self) -> Tensor:
        """SSIM of every window."""
        (a, b), (c, d) = self._luminance, self._contrast
        return a * c / (b * d)

    def gradient(self) -> Tensor:
        """The gradient of the mean over the windows, which is taken for each image."""
        (a, b), (c, d) = self._luminance, self._contrast
        ssim = self.map()
        by_xx, by_xy = -_UNBIAS * ssim / d, 2 * _UNBIAS * a / (b * d)
        by_mean = 2 * (c / d * self._mean_y - ssim * self._mean_x) / b
        by_mean = by_mean - 2 * by_xx * self._mean_x - by_xy * self._mean_y
        mean, xx, xy = (_spread(_spread(g, _MEAN, 2), _MEAN, 3) for g in (by_mean, by_xx, by_xy))
        return (mean + 2 * xx * self._x + xy * self._y) / (ssim.shape[2] * ssim.shape[3])


def _sobel(image: Tensor) -> Tensor:
    """The gradient of luma, (B,2,H,W)."""
    padded = F.pad(luma(image), (1, 1, 1, 1), mode="replicate")
    across = _correlate(_correlate(padded, _SMOOTH, 2), _DIFFERENCE, 3)
    down = _correlate(_correlate(padded, _SMOOTH, 3), _DIFFERENCE, 2)
    return torch.cat([across, down], 1)


def _correlate(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Correlate along a dimension, which gets shorter. Convolutions of one channel are slow."""
    length = x.shape[dim] - len(taps) + 1
    parts = [tap * x.narrow(dim, k, length) for k, tap in enumerate(taps) if tap]
    return reduce(operator.add, parts)


def _spread(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """The transpose of `_correlate`."""
    rim = [0, 0, 0, 0]
    rim[2 * (3 - dim)] = rim[2 * (3 - dim) + 1] = len(taps) - 1
    return _correlate(F.pad(x, rim), taps[::-1], dim)


def luma(image: Tensor, dim: int = 1) -> Tensor:
    """Compute Rec. 601 luma, the Y of YIQ: 0.299 R + 0.587 G + 0.114 B.

    Args:
        image: (B,3,H,W), or any shape with R, G and B along ``dim``.
        dim: the dimension of the colours.

    Returns:
        (B,1,H,W), or the same shape with one channel along ``dim``.

    Examples:
        >>> import torch
        >>> from fastfcs.losses import luma
        >>> round(luma(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)).item(), 4)
        0.5925
    """
    # Scalars, since copying a tensor of weights to the device would make the host wait.
    weighted = [w * channel for w, channel in zip(_LUMA, torch.split(image, 1, dim), strict=True)]
    return weighted[0] + weighted[1] + weighted[2]


def gram_distance(features: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """Compute the distance to a style, the mean over l of ||G_l - H_l||^2 / ||H_l||^2.

    It is 0 where every Gram matrix equals the style's.

    Args:
        features: h_l by layer, (B,c_l,H_l,W_l). Layers without a target are ignored.
        grams: H_l by layer, (B,c_l,c_l) or (1,c_l,c_l).

    Returns:
        One dimensionless number per image, (B,).

    Examples:
        >>> import torch
        >>> from fastfcs import gram
        >>> from fastfcs.losses import gram_distance
        >>> features = {"conv1_2": torch.rand(2, 8, 4, 5)}
        >>> gram_distance(features, {"conv1_2": gram(features["conv1_2"])})
        tensor([0., 0.])
    """
    terms = [squared_norm(gram(features[k]) - g) / squared_norm(g) for k, g in grams.items()]
    return _mean(terms)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return reduce(operator.add, terms) / len(terms)
