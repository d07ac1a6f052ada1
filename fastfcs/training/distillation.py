"""The start of the forward maps: a regression on what VGG sees.

Trained on the artistic loss alone they learn features that tell little of VGG's, and the Gram
matrices of the one can be right while those of the other are not (docs/training-log.md, "Fifth
network"). Level l and the l-th style layer have the same resolution, so one can be taught the
other's principal components.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network import ForwardMaps
from ..ops import gram
from ..progress import progress_bar
from ..vgg import STYLE_LAYERS, VGG19
from .data import Picture, random_crop
from .loop import schedule
from .precision import Precision, convolutions_in
from .soap import SOAP

_LR, _COOL_DOWN = 3e-3, 0.5  # the last fraction of the steps, with falling rate
_BATCH = 8
_KEPT = 6  # batches, each drawn from several times: VGG costs most
_SAMPLES = 16  # batches whose features' covariance is measured


def distil(
    maps: ForwardMaps,
    vgg: VGG19,
    folders: Sequence[Sequence[Picture]],
    *,
    sizes: Sequence[int],
    steps: int,
    seed: int,
    precision: Precision,
    device: str,
    shown: bool,
) -> None:
    """Train the forward maps' learned channels towards principal components of VGG's features.

    Args:
        folders: pictures, every folder equally likely.
        sizes: sides of the crops, pixels, each equally likely.
        precision: of the convolutions.
        shown: whether progress is.
    """
    batches = _batches(folders, sizes, random.Random(f"{seed}/distil"), device)

    @torch.no_grad()
    def seen(images: Tensor) -> list[Tensor]:
        with convolutions_in(precision, device):
            found = vgg(images)
        return [found[layer].float() for layer in STYLE_LAYERS]

    parts = _components((seen(next(batches)) for _ in range(_SAMPLES)), maps.learned)
    optimizer = SOAP(maps.parameters())
    recent: deque[tuple[Tensor, list[Tensor]]] = deque(maxlen=_KEPT)
    choice = random.Random(f"{seed}/distil/choice")
    for step, report in progress_bar(range(steps), 0, steps, shown):
        if step % 2 == 0 or len(recent) < _KEPT:
            images = next(batches)
            recent.append((images, [p(f) for p, f in zip(parts, seen(images), strict=False)]))
        images, wanted = choice.choice(recent)
        with convolutions_in(precision, device):
            features = maps(images)[0]
        errors = [
            (h[:, : w.shape[1]].float() - w).square().mean() / w.square().mean()
            for h, w in zip(features, wanted, strict=False)
        ]
        optimizer.zero_grad()
        torch.stack(errors).sum().backward()
        optimizer.step(_LR * schedule(step, step / steps, _COOL_DOWN))
        report({f"level {k}": error.item() for k, error in enumerate(errors, start=1)})


def _batches(
    folders: Sequence[Sequence[Picture]],
    sizes: Sequence[int],
    rng: random.Random,
    device: str,
) -> Iterator[Tensor]:
    while True:
        size = rng.choice(sizes)
        crops = [random_crop(rng.choice(rng.choice(folders)), size, rng) for _ in range(_BATCH)]
        yield torch.stack(crops).to(device)


@dataclass
class _Components:
    """The first k principal components of features (B, c, h, w), each times its variance^(-1/4).

    So scaled they have variances that go as the square root of what they were: between equal
    weights, which noise would share, and VGG's own, where a few directions are nearly all.
    """

    mean: Tensor  # (c,)
    directions: Tensor  # (k, c)

    def __call__(self, features: Tensor) -> Tensor:
        """(B, k, h, w)."""
        return F.conv2d(features - self.mean.view(-1, 1, 1), self.directions[..., None, None])


def _components(samples: Iterator[list[Tensor]], widths: Sequence[int]) -> list[_Components]:
    """Of each layer, as many as the level of that resolution has learned channels, if it can."""
    moments = [
        torch.stack(of_layer).mean(0) for of_layer in zip(*map(_moments, samples), strict=True)
    ]
    parts = []
    for moment, width in zip(moments, widths, strict=False):
        mean = moment[-1, :-1]
        values, vectors = torch.linalg.eigh(moment[:-1, :-1] - torch.outer(mean, mean))
        values, vectors = values[-width:], vectors[:, -width:]
        scale = values.clamp_min(1e-9 * values[-1]) ** -0.25
        scale /= (scale.square() * values).mean().sqrt()
        parts.append(_Components(mean.float(), (vectors * scale).mT.float()))
    return parts


def _moments(features: list[Tensor]) -> list[Tensor]:
    """Means of x x^T over the pixels x of each layer, a 1 appended to them: (c + 1, c + 1)."""
    ones = (F.pad(f, (0, 0, 0, 0, 0, 1), value=1.0) for f in features)
    return [gram(f).mean(0).double() for f in ones]
