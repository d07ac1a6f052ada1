"""The iterative solvers that the network replaces: Gatys et al. 2016, Luan et al. 2017, projected.

    min  content_weight L_c + style_weight L_s + matting_weight Tr(X^T L X) / (3n)
         + structure_weight L_e

X has n pixels; L_c and L_s are relative (`fastfcs.losses`), as in training, so that weights do not
depend on VGG's scale and the network's loss and a solver's are the same. L_e = 1 - SSIM of the
gradient magnitudes keeps edges where and as strong as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from .constraints.named import Part, enforced, parse
from .laplacian import MattingLaplacian
from .losses import (
    matting_loss,
    region_grams,
    relative_content_loss,
    relative_style_loss,
    structure_loss,
)
from .network import Constraint, check_range, check_regions
from .vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19, load_vgg19

Method = Literal["lbfgs", "adam", "gradient"]
Callback = Callable[[int, Tensor, dict[str, float]], object]

_LEARNING_RATES = {"lbfgs": 1.0, "adam": 0.02, "gradient": 1e-4}
_FIRST_STEP = 0.05  # of L-BFGS, the largest change of a pixel; it knows no scale yet
_HISTORY = 10  # of L-BFGS, pairs of images kept
_WINDOW = 10  # iterations over which progress is judged
_DIVERGED = 10  # times the loss at the start
_EPS = 1e-7  # of the projection's Laplacian, Levin et al.'s, as in the penalty that it replaces


def optimize(
    content: Tensor,
    style: Tensor,
    *,
    steps: int | Sequence[int] = 200,
    method: Method = "lbfgs",
    lr: float | None = None,
    start: Literal["content", "noise"] | Tensor = "content",
    content_weight: float = 1.0,
    style_weight: float = 20.0,
    content_layers: Mapping[str, float] | None = None,
    style_layers: Mapping[str, float] | None = None,
    matting_weight: float = 0.0,
    structure_weight: float = 0.0,
    regions: tuple[Tensor, Tensor] | None = None,
    constraint: Part | Sequence[Part] | None = None,
    cutoff: float | None = None,
    tolerance: float = 0.0,
    callback: Callback | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    vgg: VGG19 | None = None,
    seed: int = 0,
) -> Tensor:
    """Restyle one image by descending the style-transfer loss.

    Gatys et al. (2016) is the default; Luan et al. (2017) is ``matting_weight=1e4`` with
    ``regions``; the projected gradient of Puy and Pérez (2018), X <- P[X - mu grad L(X)], is
    ``method="gradient"`` or ``"adam"`` with a constraint. Both keep every iterate in [0,1]: what
    a clipping at the end would undo is not counted on. ``method="lbfgs"`` with a constraint P,
    which must be differentiable, minimises L(P[Z]) over Z instead: for a projection the same
    problem, and the curvature that L-BFGS gathers stays true.

    Args:
        content, style: (3,H,W) or (1,3,H,W), floating, in [0,1]; sizes may differ.
        steps: iterations; a sequence goes from coarse to fine, each scale twice the one before, and
            what was changed at one is where the next begins.
        method: "lbfgs"; "adam"; or "gradient", plain descent.
        lr: step size: of Adam 0.02 by default, of L-BFGS 1 (a line search corrects it); of
            "gradient" 1e-4, for a gradient taken a pixel (times 3n), the same at every size.
        start: "content"; "noise", uniform in [0,1]; or an image of the content's shape.
        content_layers, style_layers: weight of each VGG layer, conv1_1 ... conv4_2, by name; the
            defaults are conv4_2 and conv1_2 ... conv4_2, all 1. Weights are divided by their sum.
        matting_weight: of Tr(X^T L X) / (3n), L the content's matting Laplacian.
        structure_weight: of `fastfcs.losses.structure_loss`.
        regions: masks (R,H,W) in [0,1] of the content and of the style, R of each: a Gram matrix a
            region instead of one for all, each region weighted by its share of the content.
        constraint: what `Stylizer` takes. "photoreal" is made anew for each scale; callables must
            take images of every scale's size.
        cutoff: of "photoreal", whose Laplacian has an eps of 1e-7 here.
        tolerance: stops a scale once 10 iterations lower the loss by less than this share of it.
        callback: called with the iteration k = 0 ... steps of a scale, X^(k) (1,3,H,W), and its
            losses "content", "style", "matting", "structure", each unweighted, and the weighted
            "total".
        precision: of VGG's convolutions. "bfloat16" takes half the time where the device has such
            instructions, several times as long where not.
        vgg: by default `load_vgg19`'s.
        seed: of the noise.

    Returns:
        (1,3,H,W), clipped to [0,1], in the content's dtype on its device.

    Raises:
        ValueError, TypeError: an argument that is none of these; one sentence says which.
        RuntimeError: the solver diverged.
    """
    content, style = _image("content", content), _image("style", style)
    all_steps = [steps] if isinstance(steps, int) else list(steps)
    if not all_steps or min(all_steps) < 0:
        raise ValueError(f"steps must be a number of iterations, or several, not {steps}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, not {method!r}")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr must be positive, not {lr}")
    parts = parse(constraint, cutoff)
    if regions is not None:
        for name, image, given in zip(("content", "style"), (content, style), regions, strict=True):
            check_regions(name, image, given)
        if len(regions[0]) != len(regions[1]):
            raise ValueError(
                "regions must be as many in the content as in the style, not "
                f"{len(regions[0])} and {len(regions[1])}"
            )
    vgg = (vgg or load_vgg19()).to(content.device)
    weights = {
        "content": content_weight,
        "style": style_weight,
        "matting": matting_weight,
        "structure": structure_weight,
    }
    layers = (
        content_layers or {CONTENT_LAYER: 1.0},
        style_layers or dict.fromkeys(STYLE_LAYERS, 1.0),
    )

    change = _start(start, content, seed) - content  # at full size
    for k, count in enumerate(all_steps):
        factor = 2 ** (k + 1 - len(all_steps))
        here = _resized(content, factor).clamp(0, 1)
        masks = regions and tuple(_resized(m[None], factor)[0].clamp(0, 1) for m in regions)
        objective = _Objective(
            vgg, here, _resized(style, factor).clamp(0, 1), weights, layers, masks, precision
        )
        x = here + _sized(change, here.shape[-2:])
        projection = enforced(parts, here, cutoff, _EPS)
        x = _descend(objective, projection, x, count, method, lr, tolerance, callback)
        change = x - here
    return (content + change).clamp(0, 1).to(content)


class _Objective:
    """The losses of an image, at one scale."""

    def __init__(
        self,
        vgg: VGG19,
        content: Tensor,
        style: Tensor,
        weights: Mapping[str, float],
        layers: tuple[Mapping[str, float], Mapping[str, float]],
        masks: tuple[Tensor, ...] | None,
        precision: str = "float32",
    ) -> None:
        self._vgg, self._weights, self._image = vgg, weights, content
        self._half = precision == "bfloat16"
        self._content_layers, self._style_layers = (
            {name: weight / sum(chosen.values()) for name, weight in chosen.items()}
            for chosen in layers
        )
        self._layers = tuple({**self._content_layers, **self._style_layers})
        ones = (torch.ones_like(content[0, :1]), torch.ones_like(style[0, :1]))
        self._masks, style_masks = masks or ones  # one region is the plain Gram matrix
        self._shares = self._masks.mean((1, 2)) / self._masks.mean((1, 2)).sum()
        with torch.no_grad():
            features = self._features(content)
            self._content = {name: features[name] for name in self._content_layers}
            self._before = self._grams(features, self._masks)
            self._target = self._grams(self._features(style), style_masks)
        self._laplacian = MattingLaplacian(content) if weights["matting"] else None

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self._half):
            found = self._vgg(image, self._layers)
        return {name: feature.to(image.dtype) for name, feature in found.items()}

    def _grams(self, features: Mapping[str, Tensor], masks: Tensor) -> dict[str, Tensor]:
        return {name: region_grams(features[name], masks) for name in self._style_layers}

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        features = self._features(image)
        grams = self._grams(features, self._masks)
        zero = image.new_zeros(())
        found = {
            "content": sum(
                (
                    weight * relative_content_loss(features[name], self._content[name])
                    for name, weight in self._content_layers.items()
                ),
                zero,
            ),
            "style": sum(
                (
                    weight
                    * self._shares
                    @ relative_style_loss(grams[name], self._target[name], self._before[name])
                    for name, weight in self._style_layers.items()
                ),
                zero,
            ),
            "matting": zero
            if self._laplacian is None
            else matting_loss(self._laplacian, image) / image.numel(),
            "structure": structure_loss(image, self._image) if self._weights["structure"] else zero,
        }
        total = sum((self._weights[name] * loss for name, loss in found.items()), zero)
        return {**found, "total": total}


def _descend(
    objective: _Objective,
    constraint: Constraint,
    start: Tensor,
    steps: int,
    method: Method,
    lr: float | None,
    tolerance: float,
    callback: Callback | None,
) -> Tensor:
    """X^(steps), or where progress ends."""

    def feasible(x: Tensor) -> Tensor:
        return constraint(x).clamp(0, 1)

    lr = _LEARNING_RATES[method] if lr is None else lr
    through = method == "lbfgs"  # L(P[Z]) instead of P[X - ...]
    with torch.no_grad():
        z = (start if through else feasible(start)).clone(memory_format=torch.contiguous_format)
    z.requires_grad_()
    optimizer: torch.optim.Optimizer
    if method == "lbfgs":
        optimizer = torch.optim.LBFGS(
            [z],
            lr=lr,
            max_iter=1,
            max_eval=25,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )
    elif method == "adam":
        optimizer = torch.optim.Adam([z], lr=lr)
    else:
        optimizer = torch.optim.SGD([z], lr=lr * start.numel())
    at: Tensor | None = None
    losses: dict[str, Tensor] = {}

    def evaluate() -> Tensor:
        """The loss at z and its gradient; L-BFGS asks again where it has just been."""
        nonlocal at, losses
        if at is None or not torch.equal(at, z):
            at = z.detach().clone()
            z.grad = None
            with torch.enable_grad():
                losses = objective(constraint(z) if through else z)
                losses["total"].backward()
        return losses["total"].detach()

    totals: list[float] = []
    for k in range(steps + 1):
        total = evaluate().item()
        if not total <= _DIVERGED * max(totals[:1] or [total]):
            raise RuntimeError(
                f"the solver diverged: the loss is {total:.3g} after {k} iterations"
                + (f", from {totals[0]:.3g}" if totals else "")
                + f"; lr={lr:g} should be lower"
            )
        totals.append(total)
        if callback is not None:
            with torch.no_grad():
                image = (constraint(z) if through else z).detach().clone()
            callback(k, image, {name: loss.item() for name, loss in losses.items()})
        stalled = k >= _WINDOW and totals[-1 - _WINDOW] - total < tolerance * total
        if k == steps or (tolerance and stalled):
            break
        if method == "lbfgs" and k == 0 and z.grad is not None:
            slope = z.grad.abs()
            if steepest := slope.max().item():
                optimizer.param_groups[0]["lr"] = (
                    _FIRST_STEP * max(1, slope.sum().item()) / steepest
                )
        optimizer.step(evaluate if through else None)  # type: ignore[arg-type]
        optimizer.param_groups[0]["lr"] = lr * (start.numel() if method == "gradient" else 1)
        if not through:
            with torch.no_grad():
                z.copy_(feasible(z))
    with torch.no_grad():
        return (constraint(z) if through else z).detach()


def _image(name: str, given: Tensor) -> Tensor:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor in [0, 1]")
    image = given[None] if given.dim() == 3 else given
    if image.dim() != 4 or image.shape[:2] != (1, 3) or min(image.shape[-2:]) < 16:
        raise ValueError(
            f"{name} must be a tensor (3, H, W) or (1, 3, H, W) of at least 16 pixels a side, "
            f"not {tuple(given.shape)}"
        )
    check_range(name, image)
    return image.detach()


def _start(start: Any, content: Tensor, seed: int) -> Tensor:
    if isinstance(start, Tensor):
        image = _image("start", start)
        if image.shape != content.shape:
            raise ValueError(
                f"start must have the content's shape {tuple(content.shape)}, "
                f"not {tuple(start.shape)}"
            )
        return image.to(content)
    if start == "noise":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(content.shape, generator=generator).to(content)
    if start != "content":
        raise ValueError(f"start must be 'content', 'noise' or an image, not {start!r}")
    return content


def _resized(image: Tensor, factor: float) -> Tensor:
    return _sized(image, [max(16, round(side * factor)) for side in image.shape[-2:]])


def _sized(image: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(size) == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image, list(size), mode="bicubic", antialias=True)
