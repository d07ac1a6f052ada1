"""The artistic loss of a batch: Gatys' two losses made relative (`fastfcs.losses`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..losses import relative_content_loss, relative_style_loss
from ..ops import gram
from ..vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19
from .data import Crop


def batch_loss(
    vgg: VGG19,
    output: Tensor,
    content: Sequence[Crop],
    style: Sequence[Crop],
    style_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """||F - C||^2 / ||C||^2 + style_weight * mean over l of ||G - S||^2 / (||S||^2 + ||G_C||^2).

    G_C is the content's own Gram matrix. Means over the batch (B, 3, H, W); both terms by name.
    """
    content_term, style_terms = batch_terms(vgg, output, content, style)
    style_term = style_terms.mean()
    return content_term + style_weight * style_term, {"content": content_term, "style": style_term}


def batch_terms(
    vgg: VGG19, output: Tensor, content: Sequence[Crop], style: Sequence[Crop]
) -> tuple[Tensor, Tensor]:
    """The terms of :func:`batch_loss`: content's, a scalar, and style's at each layer, (L,)."""
    found = vgg(output)
    features = torch.stack([crop.features for crop in content])
    content_term = relative_content_loss(found[CONTENT_LAYER].float(), features.float())
    style_terms = []
    for layer in STYLE_LAYERS:
        wanted = torch.stack([crop.grams[layer] for crop in style])
        before = torch.stack([crop.grams[layer] for crop in content])
        style_terms.append(relative_style_loss(gram(found[layer]), wanted, before).mean())
    return content_term, torch.stack(style_terms)


def clip_straight_through(image: Tensor) -> Tensor:
    """Clip an image to [0, 1], but let the gradient pass as if it were not clipped.

    Otherwise nothing would be learned from pixels outside the range.
    """
    return image + (image.clamp(0, 1) - image).detach()
