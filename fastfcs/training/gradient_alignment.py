"""How well do the forward maps see what VGG asks of an image?

Features may be like VGG's and yet have other gradients, and it is by gradients that an image is
changed: with forward maps that explain half of conv4_2's variance the gradient of their own style
loss was at an angle of 84 degrees to VGG's (docs/training-log.md, "Gradients as VGG's").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import relative_style_loss
from ..network import ForwardMaps


def gradient_mismatch(
    maps: ForwardMaps, level: int, term: Tensor, output: Tensor, content: Tensor, style: Tensor
) -> Tensor:
    """1 - the cosine between two gradients of the style loss at the output, a scalar in [0, 2].

    Both are of `fastfcs.losses.relative_style_loss`: VGG's at layer ``level``, and the same of the
    forward maps' own features there. Differentiable in the parameters of the maps alone.

    Args:
        term: VGG's, a scalar, made of ``output``; its graph is kept.
        output, content, style: images (B, 3, H, W); the style may have another size.
    """
    (wanted,) = torch.autograd.grad(term, output, retain_graph=True)
    x = output.detach().requires_grad_()
    of_x, of_style, of_content = (_gram(maps(image)[0][level]) for image in (x, style, content))
    (own,) = torch.autograd.grad(
        relative_style_loss(of_x, of_style, of_content).sum(), x, create_graph=True
    )
    return 1 - F.cosine_similarity(own.flatten(1).float(), wanted.flatten(1).float()).mean()


def _gram(h: Tensor) -> Tensor:
    """`fastfcs.ops.gram` by torch's products: the operator is differentiated only once."""
    h = h.float().flatten(2)
    return h @ h.mT / h.shape[-1]
