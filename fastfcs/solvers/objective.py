"""The loss that the iterative solvers minimise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..laplacian import MattingLaplacian
from ..losses import (
    matting_loss,
    region_grams,
    relative_content_loss,
    relative_style_loss,
    structure_loss,
)
from ..vgg import VGG19


class Objective:
    """The losses of X at one scale of the pyramid.

    Args:
        vgg: VGG-19, which measures content and style.
        content, style: images (1,3,H,W) in [0,1].
        weights: weights of the terms "content", "style", "matting" and "structure".
        content_layers, style_layers: weight of each VGG layer by name; divided by their sum.
        masks: regions of the content and of the style, (R,H,W) each; None is a single region.
        half: whether VGG's convolutions run in bfloat16.

    Examples:
        >>> import torch
        >>> from fastfcs.solvers.objective import Objective
        >>> from fastfcs.vgg import load_vgg19
        >>> content, style = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
        >>> weights = {"content": 1.0, "style": 20.0, "matting": 0.0, "structure": 0.0}
        >>> layers = {"conv4_2": 1.0}, {"conv1_2": 1.0, "conv2_2": 1.0}
        >>> losses = Objective(load_vgg19(), content, style, weights, *layers)(content)
        >>> losses["content"].item(), losses["total"].item() > 0
        (0.0, True)
    """

    def __init__(
        self,
        vgg: VGG19,
        content: Tensor,
        style: Tensor,
        weights: Mapping[str, float],
        content_layers: Mapping[str, float],
        style_layers: Mapping[str, float],
        masks: tuple[Tensor, Tensor] | None = None,
        half: bool = False,
    ) -> None:
        self._vgg, self._weights, self._image, self._half = vgg, weights, content, half
        self._content_layers, self._style_layers = (
            {name: weight / sum(layers.values()) for name, weight in layers.items()}
            for layers in (content_layers, style_layers)
        )
        self._layers = tuple({**self._content_layers, **self._style_layers})
        everywhere = torch.ones_like(content[0, :1]), torch.ones_like(style[0, :1])
        self._masks, style_masks = masks or everywhere  # one region is the plain Gram matrix
        self._shares = self._masks.mean((1, 2)) / self._masks.mean((1, 2)).sum()
        with torch.no_grad():
            features = self._features(content)
            self._content = {name: features[name] for name in self._content_layers}
            self._content_grams = self._grams(features, self._masks)
            self._targets = self._grams(self._features(style), style_masks)
        self._laplacian = MattingLaplacian(content) if weights["matting"] else None

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Evaluate the losses of X.

        Args:
            image: X, (1,3,H,W).

        Returns:
            Scalars: "content", "style", "matting" and "structure", unweighted, and the weighted
            "total".
        """
        features = self._features(image)
        grams = self._grams(features, self._masks)
        zero = image.new_zeros(())
        content_terms = (
            weight * relative_content_loss(features[name], self._content[name])
            for name, weight in self._content_layers.items()
        )
        style_terms = (
            weight
            * self._shares
            @ relative_style_loss(grams[name], self._targets[name], self._content_grams[name])
            for name, weight in self._style_layers.items()
        )
        losses = {
            "content": sum(content_terms, zero),
            "style": sum(style_terms, zero),
            "matting": zero
            if self._laplacian is None
            else matting_loss(self._laplacian, image) / image.numel(),
            "structure": structure_loss(image, self._image) if self._weights["structure"] else zero,
        }
        total = sum((self._weights[name] * loss for name, loss in losses.items()), zero)
        return {**losses, "total": total}

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self._half):
            features = self._vgg(image, self._layers)
        return {name: feature.to(image.dtype) for name, feature in features.items()}

    def _grams(self, features: Mapping[str, Tensor], masks: Tensor) -> dict[str, Tensor]:
        return {name: region_grams(features[name], masks) for name in self._style_layers}
