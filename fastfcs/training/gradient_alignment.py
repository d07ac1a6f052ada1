"""A loss that aligns the gradients of the forward maps with those of VGG.

Features may resemble VGG's and still have other gradients, and it is gradients that change an
image. With forward maps that explained half of the variance of conv4_2, the gradient of their own
style loss was at an angle of 84 degrees to VGG's (docs/training-log.md, "Gradients as VGG's").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import relative_style_loss
from ..network import ForwardMaps
from ..ops import gram


def gradient_mismatch(
    maps: ForwardMaps, level: int, term: Tensor, output: Tensor, content: Tensor, style: Tensor
) -> Tensor:
    """Compute 1 - the cosine between two gradients of the style loss at the output.

    Both are gradients of `fastfcs.losses.relative_style_loss` at one level, one through VGG and one
    through the forward maps. The result is differentiable in the parameters of the maps only.

    Args:
        maps: the forward maps.
        level: index of the level, which has the resolution of the VGG layer of the same index.
        term: VGG's loss at that layer, a scalar computed from ``output``; its graph is retained.
        output, content, style: images (B, 3, H, W); the style may have another size.

    Returns:
        The mean over the batch, a scalar in [0, 2].

    Examples:
        >>> import torch
        >>> from fastfcs.network import ForwardMaps
        >>> from fastfcs.training.gradient_alignment import gradient_mismatch
        >>> _ = torch.manual_seed(0)
        >>> maps, (x, content, style) = ForwardMaps((8, 8), (0, 0)), torch.rand(3, 1, 3, 16, 16)
        >>> output = x.requires_grad_()
        >>> term = (output - style).square().sum()  # as if of VGG
        >>> mismatch = gradient_mismatch(maps, 1, term, output, content, style)
        >>> bool(0 < mismatch < 2), mismatch.requires_grad
        (True, True)
    """
    (target,) = torch.autograd.grad(term, output, retain_graph=True)
    x = output.detach().requires_grad_()
    gram_x, gram_style, gram_content = (
        gram(maps(image)[0][level]) for image in (x, style, content)
    )
    (gradient,) = torch.autograd.grad(
        relative_style_loss(gram_x, gram_style, gram_content).sum(), x, create_graph=True
    )
    return 1 - F.cosine_similarity(gradient.flatten(1).float(), target.flatten(1).float()).mean()
