"""The artistic loss of a batch: the two losses of Gatys et al. made relative (`fastfcs.losses`)."""

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
    """Compute the loss that networks are trained on.

    It is ||h - h^C||^2 / ||h^C||^2 + style_weight mean_l ||G_l - H_l||^2 / (||H_l||^2 +
    ||G_l^C||^2): h and h^C are conv4_2 features of the output and the content; G_l, H_l and G_l^C
    are Gram matrices of the output, the style and the unchanged content at style layer l.

    Args:
        vgg: the network of the features.
        output: X, images (B, 3, H, W).
        content, style: crops with the targets, B of each.
        style_weight: weight of the style term.

    Returns:
        The loss, a mean over the batch, and its two terms, "content" and "style".

    Examples:
        >>> import torch
        >>> from fastfcs.training.objective import batch_loss
        >>> from fastfcs.vgg import VGG19
        >>> from fastfcs.training.data import targets
        >>> vgg, image = VGG19(), torch.rand(1, 3, 16, 16)
        >>> crops = targets(vgg, image)
        >>> loss, terms = batch_loss(vgg, image, crops, crops, style_weight=20)
        >>> round(loss.item(), 4), sorted(terms)
        (0.0, ['content', 'style'])
    """
    content_term, style_terms = batch_terms(vgg, output, content, style)
    style_term = style_terms.mean()
    return content_term + style_weight * style_term, {"content": content_term, "style": style_term}


def batch_terms(
    vgg: VGG19, output: Tensor, content: Sequence[Crop], style: Sequence[Crop]
) -> tuple[Tensor, Tensor]:
    """Compute the terms of `batch_loss`, with the style term of each layer.

    Args:
        vgg, output, content, style: see `batch_loss`.

    Returns:
        The content term, a scalar, and the style terms, (4,), one per style layer.

    Examples:
        >>> import torch
        >>> from fastfcs.training.objective import batch_terms
        >>> from fastfcs.vgg import VGG19
        >>> from fastfcs.training.data import targets
        >>> vgg, image = VGG19(), torch.rand(1, 3, 16, 16)
        >>> crops = targets(vgg, image)
        >>> [term.shape for term in batch_terms(vgg, image, crops, crops)]
        [torch.Size([]), torch.Size([4])]
    """
    features = vgg(output)
    # Unlike `stack`, this keeps channels_last memory.
    content_features = torch.cat([crop.features[None] for crop in content])
    content_term = relative_content_loss(features[CONTENT_LAYER].float(), content_features.float())
    style_terms = []
    for layer in STYLE_LAYERS:
        target = torch.stack([crop.grams[layer] for crop in style])
        before = torch.stack([crop.grams[layer] for crop in content])
        style_terms.append(relative_style_loss(gram(features[layer]), target, before).mean())
    return content_term, torch.stack(style_terms)


def clip_straight_through(image: Tensor) -> Tensor:
    """Clip an image to [0, 1], but let the gradient pass as if it were not clipped.

    Otherwise pixels outside the range would teach the network nothing.

    Args:
        image: any shape.

    Returns:
        The clipped image.

    Examples:
        >>> import torch
        >>> from fastfcs.training.objective import clip_straight_through
        >>> x = torch.tensor([0.5, 1.5], requires_grad=True)
        >>> clipped = clip_straight_through(x)
        >>> clipped.tolist(), torch.autograd.grad(clipped.sum(), x)[0].tolist()
        ([0.5, 1.0], [1.0, 1.0])
    """
    return image + (image.clamp(0, 1) - image).detach()
