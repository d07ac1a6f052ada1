"""Pretraining of the forward maps by regression on VGG's features.

Trained on the artistic loss alone, forward maps learn features that explain little of VGG's, and
their Gram matrices can be right while VGG's are not (docs/training-log.md, "Fifth network"). Level
l and the l-th style layer have the same resolution, so a level can be taught the principal
components of its layer.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network import ForwardMaps
from ..ops import gram
from ..progress import progress_bar
from ..vgg import STYLE_LAYERS, VGG19
from .config import Precision
from .data import Picture, random_crop
from .loop import autocast, schedule
from .soap import SOAP

_LR, _COOL_DOWN = 3e-3, 0.5  # highest rate; fraction of the steps, at the end, in which it falls
_BATCH = 8
_RECENT = 6  # batches, each of which is used several times because VGG costs most
_SAMPLES = 16  # batches on which the covariance of VGG's features is measured


def distil(
    maps: ForwardMaps,
    vgg: VGG19,
    folders: Sequence[Sequence[Picture]],
    *,
    sizes: Sequence[int],
    steps: int,
    seed: int = 0,
    precision: Precision = "float32",
    device: str = "cpu",
    shown: bool = True,
) -> None:
    """Train the learned channels of forward maps towards principal components of VGG's features.

    Args:
        maps: the forward maps, on the device; trained in place.
        vgg: on the device.
        folders: pictures; every folder is equally likely.
        sizes: sides of the crops in pixels, each equally likely.
        steps: number of steps.
        seed: seed of the crops.
        precision: precision of the convolutions.
        device: device of the crops.
        shown: whether progress is shown.

    Raises:
        ValueError: a file is not a picture.

    Examples:
        >>> import torch
        >>> from fastfcs.network import ForwardMaps
        >>> from fastfcs.training.distillation import distil
        >>> from fastfcs.vgg import VGG19
        >>> _ = torch.manual_seed(0)
        >>> maps, pixels = ForwardMaps((8, 8), (0, 0)), torch.randint(256, (3, 40, 60))
        >>> before = maps[1][1].weight.clone()
        >>> distil(maps, VGG19(), [[pixels.byte()]], sizes=[16], steps=2, shown=False)
        >>> bool(torch.equal(maps[1][1].weight, before))
        False
    """
    batches = _batches(folders, sizes, random.Random(f"{seed}/distil"), device)

    @torch.no_grad()
    def vgg_features(images: Tensor) -> list[Tensor]:
        with autocast(precision, device):
            features = vgg(images)
        return [features[layer].float() for layer in STYLE_LAYERS]

    samples = (vgg_features(next(batches)) for _ in range(_SAMPLES))
    components = _components(samples, maps.learned)
    optimizer = SOAP(maps.parameters())
    recent: deque[tuple[Tensor, list[Tensor]]] = deque(maxlen=_RECENT)
    choice = random.Random(f"{seed}/distil/choice")
    for step, report in progress_bar(range(steps), 0, steps, shown):
        if step % 2 == 0 or len(recent) < _RECENT:
            images = next(batches)
            features = zip(components, vgg_features(images), strict=False)
            recent.append((images, [project(h) for project, h in features]))
        images, targets = choice.choice(recent)
        with autocast(precision, device):
            learned = maps(images)[0]
        errors = [
            (h[:, : y.shape[1]].float() - y).square().mean() / y.square().mean()
            for h, y in zip(learned, targets, strict=False)
        ]
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(errors).sum())
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

    The scaling takes the square root of each component's variance: a compromise between whitening,
    which amplifies noise, and VGG's own spectrum, which a few directions dominate.
    """

    mean: Tensor  # (c,)
    directions: Tensor  # (k, c)

    def __call__(self, features: Tensor) -> Tensor:
        """Project features: (B, c, h, w) -> (B, k, h, w)."""
        return F.conv2d(features - self.mean.view(-1, 1, 1), self.directions[..., None, None])


def _components(samples: Iterable[list[Tensor]], widths: Sequence[int]) -> list[_Components]:
    """Compute the components of each style layer, as many as its level has learned channels."""
    moments = [torch.stack(m).mean(0) for m in zip(*map(_moments, samples), strict=True)]
    components = []
    for moment, width in zip(moments, widths, strict=False):
        mean = moment[-1, :-1]
        values, vectors = torch.linalg.eigh(moment[:-1, :-1] - torch.outer(mean, mean))
        values, vectors = values[-width:], vectors[:, -width:]
        scale = values.clamp_min(1e-9 * values[-1]) ** -0.25
        scale /= (scale.square() * values).mean().sqrt()
        components.append(_Components(mean.float(), (vectors * scale).mT.float()))
    return components


def _moments(features: list[Tensor]) -> list[Tensor]:
    """Means of x x^T over the pixels x of each layer, with a 1 appended to x: (c + 1, c + 1)."""
    augmented = (F.pad(h, (0, 0, 0, 0, 0, 1), value=1.0) for h in features)
    return [gram(h).mean(0).double() for h in augmented]
