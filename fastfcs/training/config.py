"""Settings of training and of tuning. The commands read their defaults from here.

Nothing in this module imports torch, so ``fastfcs train --help`` is instant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, get_args

Precision: TypeAlias = Literal["float32", "bfloat16"]
"""The dtype that convolutions run in; losses and parameters are always float32."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained, see `train`.

    Attributes:
        steps: number of steps. None stands for `STEPS`, or for no limit if ``minutes`` is given.
        minutes: duration; the run ends after whichever of ``steps`` and ``minutes`` comes first,
            and the learning rate falls accordingly. None is no limit.
        batch: pictures per step, over all processes.
        size: side of the square crops in pixels, a multiple of 8. With several sizes, contents and
            styles take turns independently of each other, so that every combination occurs.
        levels: scales from coarse to fine (`fastfcs.pyramid`) in the steps that are not
            constrained, at most; the first has at least 80 pixels per side. Only the last is
            trained, from the results of the others. Its loss is a mean over as many scales, of at
            least 64 pixels.
        style_weight: weight of the style term of `fastfcs.training.objective.batch_loss`.
        lr: the highest learning rate of SOAP.
        photoreal: fraction of the steps, in [0, 1], that are constrained as by
            ``constraint="photoreal"``, with a random cutoff between 0.003 and 0.1.
        structure_weight: weight of `fastfcs.losses.structure_loss` in those steps.
        noise_weight: weight of ||f(C + n) - f(C)||^2 / ||n||^2, which penalises flicker: how much
            the updates f amplify a noise n of one grey level that differs from frame to frame.
        alignment_weight: weight of `fastfcs.training.gradient_alignment.gradient_mismatch` at the
            result, on one random level per step.
        channels, residual: architecture of a new network, see `fastfcs.network.UnrolledSolver`;
            None stands for its defaults. Fewer channels are faster.
        distil_steps: number of steps in which the forward maps of a new network first learn from
            VGG.
        weights: name or file of the weights to continue from; None trains a new network.
        precision: precision of the convolutions.
        seed: seed of all random choices.
        holdout: number of photos, the last of the content folder, that are never trained on, not
            even as styles. A pack has its own held-out photos.
        preview_every: steps between checkpoints. A run limited by ``minutes`` also writes one every
            30 seconds.
        scores: number of held-out photos, and of the pack's pairs, on which the network is measured
            before and after (`fastfcs.training.scores`); 0 measures nothing.
        licence: licence of the weights, for the file's header.

    Raises:
        ValueError: a setting is out of range, or ``channels`` or ``residual`` contradict
            ``weights``.

    Examples:
        >>> from fastfcs.training import TrainConfig
        >>> config = TrainConfig(minutes=30, size=128)
        >>> config.sizes, config.step_limit, TrainConfig().step_limit
        ((128,), None, 3000)
        >>> TrainConfig(photoreal=1.5)
        Traceback (most recent call last):
        ValueError: photoreal must be in [0, 1], got 1.5
    """

    STEPS: ClassVar[int] = 3000  # if neither steps nor minutes are given

    steps: int | None = None
    minutes: float | None = None
    batch: int = 4
    size: int | Sequence[int] = (96, 128, 160)
    levels: int = 1
    style_weight: float = 20.0
    lr: float = 2e-3
    photoreal: float = 0.0
    structure_weight: float = 0.0
    noise_weight: float = 0.0
    alignment_weight: float = 0.0
    channels: Sequence[int] | None = None
    residual: Sequence[int] | None = None
    distil_steps: int = 1000
    weights: str | Path | None = None
    precision: Precision = "float32"
    seed: int = 0
    holdout: int = 50
    preview_every: int = 500
    scores: int = 0
    licence: str = "MIT"

    def __post_init__(self) -> None:
        from ..checks import MIN_SIDE

        _check_positive(self, "minutes", "lr")
        _check_least(self, 1, "steps", "batch", "levels", "preview_every")
        _check_least(self, 0, "distil_steps", "holdout", "scores")
        _check_least(self, 0, "style_weight", "structure_weight", "noise_weight")
        _check_least(self, 0, "alignment_weight")
        _check_precision(self.precision)
        if not self.sizes or any(size % 8 or size < MIN_SIDE for size in self.sizes):
            raise ValueError(
                f"size must be a multiple of 8 and at least {MIN_SIDE}, got {self.size}"
            )
        if not 0 <= self.photoreal <= 1:
            raise ValueError(f"photoreal must be in [0, 1], got {self.photoreal}")
        if self.channels is not None and (not self.channels or min(self.channels) < 5):
            raise ValueError(f"channels must be at least 5 on every level, got {self.channels}")
        if self.weights is not None and not (self.channels is self.residual is None):
            raise ValueError(
                "channels and residual must be left out with weights, which have their own, "
                f"got {self.channels} and {self.residual}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes of crops."""
        return (self.size,) if isinstance(self.size, int) else tuple(self.size)

    @property
    def step_limit(self) -> int | None:
        """The number of steps after which the run ends; None if only the clock ends it."""
        return self.STEPS if self.steps is None and self.minutes is None else self.steps


@dataclass(frozen=True)
class TuneConfig:
    """How the Gram matrices of one style are tuned, see `tune`.

    Attributes:
        weights: name or file of the network's weights.
        steps: number of steps per scale.
        batch: photos per step.
        size: largest side of the square crops of the photos in pixels, at least 16; those of the
            first scale have 128.
        levels: number of scales, at most.
        brush: size of the strokes, see `fastfcs.Stylizer`.
        style_weight: weight of the style term of `fastfcs.training.objective.batch_loss`.
        lr: the highest learning rate of SOAP.
        precision: precision of the convolutions.
        title: title of the painting, for the file's header.
        seed: seed of the crops.

    Raises:
        ValueError: a setting is out of range.

    Examples:
        >>> from fastfcs.training import TuneConfig
        >>> TuneConfig(style_weight=40, title="The Scream, Edvard Munch, 1893").steps
        70
    """

    weights: str | Path = "universal"
    steps: int = 70
    batch: int = 2
    size: int = 256
    levels: int = 3
    brush: float = 1.0
    style_weight: float = 20.0
    lr: float = 0.015
    precision: Precision = "float32"
    title: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        from ..checks import MIN_SIDE, check_brush

        _check_positive(self, "lr")
        _check_least(self, 1, "steps", "batch", "levels")
        _check_least(self, 0, "style_weight")
        _check_least(self, MIN_SIDE, "size")
        check_brush(self.brush)
        _check_precision(self.precision)


def _check_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and positive, got {value}")


def _check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
