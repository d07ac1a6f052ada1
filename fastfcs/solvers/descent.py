"""Descent on the style-transfer loss by L-BFGS, Adam or plain gradient descent, constrained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import MIN_SIDE, check_range, check_regions
from ..constraints import Constraint
from ..constraints.registry import Part, build_projections, parse
from ..vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19, load_vgg19
from .objective import Objective

Method = Literal["lbfgs", "adam", "gradient"]
Callback = Callable[[int, Tensor, dict[str, float]], object]

_LEARNING_RATES = {"lbfgs": 1.0, "adam": 0.02, "gradient": 1e-4}
_FIRST_STEP = 0.05  # largest change of a pixel in L-BFGS's first iteration, which has no scale yet
_HISTORY = 10  # pairs of images that L-BFGS remembers
_WINDOW = 10  # iterations over which progress is judged
_DIVERGED = 10  # times the initial loss
_EPS = 1e-7  # eps of the projection's Laplacian: Levin et al.'s, as in the penalty it replaces


def solve(
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

    Gatys et al. (2016) is the default. Luan et al. (2017) is ``matting_weight=1e4`` with
    ``regions``. The projected gradient of Puy and Pérez (2018), X <- P[X - mu grad L(X)], is
    ``method="gradient"`` or ``"adam"`` with a constraint; both keep every iterate in [0,1], so that
    no progress is lost to clipping at the end. ``method="lbfgs"`` with a constraint P, which must
    be differentiable, minimises L(P[Z]) over Z instead. For a projection that is the same problem,
    and the curvature that L-BFGS gathers remains valid.

    Args:
        content, style: (3,H,W) or (1,3,H,W), floating, in [0,1]; sizes may differ.
        steps: iterations. A sequence runs a pyramid from coarse to fine, each scale twice the size
            of the previous one; the change made at one scale initialises the next.
        method: "lbfgs"; "adam"; or "gradient", plain gradient descent.
        lr: step size. By default 0.02 for Adam; 1 for L-BFGS, corrected by a line search; 1e-4 for
            "gradient", which is multiplied by 3n so that it is independent of the size.
        start: "content"; "noise", uniform in [0,1]; or an image of the content's shape.
        content_layers, style_layers: weight of each VGG layer by name. By default conv4_2 and
            conv1_2 ... conv4_2, all 1. Weights are divided by their sum.
        matting_weight: weight of Tr(X^T L X) / (3n), L the content's matting Laplacian.
        structure_weight: weight of `fastfcs.losses.structure_loss`.
        regions: masks (R,H,W) in [0,1] of the content and of the style, R of each: one Gram matrix
            per region, weighted by the region's share of the content.
        constraint: see `Stylizer`. "photoreal" is made for each scale; callables must accept the
            image sizes of all scales.
        cutoff: the cutoff of "photoreal", whose Laplacian has an eps of 1e-7 here.
        tolerance: stop a scale once 10 iterations lower the loss by less than this fraction of it.
        callback: called at each iteration k = 0 ... steps of a scale with k, X^(k), (1,3,H,W), and
            a dictionary of the losses "content", "style", "matting" and "structure", each
            unweighted, and the weighted "total".
        precision: type of VGG's convolutions. "bfloat16" halves the time on devices with
            instructions for it, and is several times slower on others.
        vgg: the network of the losses; by default see `fastfcs.vgg.load_vgg19`.
        seed: seed of the noise.

    Returns:
        (1,3,H,W), clipped to [0,1], in the content's dtype and on its device.

    Raises:
        ValueError, TypeError: an argument is not as described above.
        RuntimeError: the solver diverged.

    Examples:
        >>> import torch
        >>> from fastfcs.solvers import solve
        >>> content, style = torch.rand(3, 16, 24), torch.rand(3, 16, 16)
        >>> totals = []
        >>> record = lambda k, image, losses: totals.append(losses["total"])
        >>> solve(content, style, steps=2, method="adam", callback=record).shape
        torch.Size([1, 3, 16, 24])
        >>> totals[2] < totals[0]
        True
    """
    content, style = _image("content", content), _image("style", style)
    all_steps = [steps] if isinstance(steps, int) else list(steps)
    if not all_steps or min(all_steps) < 0:
        raise ValueError(f"steps must be at least 0, for one or more scales, got {steps}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    weights = {
        "content": content_weight,
        "style": style_weight,
        "matting": matting_weight,
        "structure": structure_weight,
    }
    numbers = {f"{name}_weight": weight for name, weight in weights.items()}
    for name, number in [*numbers.items(), ("tolerance", tolerance)]:
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {number}")
    content_layers = content_layers or {CONTENT_LAYER: 1.0}
    style_layers = style_layers or dict.fromkeys(STYLE_LAYERS, 1.0)
    for name, layers in ("content_layers", content_layers), ("style_layers", style_layers):
        if not (min(layers.values()) >= 0 and 0 < sum(layers.values()) < math.inf):
            raise ValueError(
                f"{name} must have finite weights, none negative and not all 0, got {dict(layers)}"
            )
    parts = parse(constraint, cutoff)
    if regions is not None:
        of_content, of_style = regions
        check_regions("content", content, of_content)
        check_regions("style", style, of_style)
        if len(of_content) != len(of_style):
            raise ValueError(
                "regions must be as many masks of the content as of the style, "
                f"got {len(of_content)} and {len(of_style)}"
            )
    vgg = (vgg or load_vgg19()).to(content.device)

    change = _start(start, content, seed) - content  # at full size
    for k, iterations in enumerate(all_steps):
        factor = 2 ** (k + 1 - len(all_steps))
        content_k = _scale(content, factor).clamp(0, 1)
        masks = None
        if regions is not None:
            of_content, of_style = (_scale(m[None], factor)[0].clamp(0, 1) for m in regions)
            masks = of_content, of_style
        objective = Objective(
            vgg,
            content_k,
            _scale(style, factor).clamp(0, 1),
            weights,
            content_layers,
            style_layers,
            masks,
            half=precision == "bfloat16",
        )
        x = content_k + _resize(change, content_k.shape[-2:])
        projection = build_projections(parts, content_k, cutoff=cutoff, eps=_EPS)
        x = _descend(objective, projection, x, iterations, method, lr, tolerance, callback)
        change = x - content_k
    return (content + change).clamp(0, 1).to(content)


def _descend(
    objective: Objective,
    constraint: Constraint,
    start: Tensor,
    steps: int,
    method: Method,
    lr: float | None,
    tolerance: float,
    callback: Callback | None,
) -> Tensor:
    """X^(steps), or the iterate at which progress stalls."""

    def feasible(x: Tensor) -> Tensor:
        return constraint(x).clamp(0, 1)

    lr = _LEARNING_RATES[method] if lr is None else lr
    through = method == "lbfgs"  # minimise L(P[Z]) instead of projecting X
    with torch.no_grad():
        z = (start if through else feasible(start)).clone(memory_format=torch.contiguous_format)
    z.requires_grad_()
    optimizer = _make_optimizer(z, method, lr)
    evaluated_at: Tensor | None = None
    losses: dict[str, Tensor] = {}

    def evaluate() -> Tensor:
        """The loss and gradient at z, cached because L-BFGS asks for the same point twice."""
        nonlocal evaluated_at, losses
        if evaluated_at is None or not torch.equal(evaluated_at, z):
            evaluated_at = z.detach().clone()
            z.grad = None
            with torch.enable_grad():
                losses = objective(constraint(z) if through else z)
                losses["total"].backward()
        return losses["total"].detach()

    totals: list[float] = []
    for k in range(steps + 1):
        total = evaluate().item()
        _check_divergence(total, totals, k, lr)
        totals.append(total)
        if callback is not None:
            with torch.no_grad():
                image = (constraint(z) if through else z).detach().clone()
            callback(k, image, {name: loss.item() for name, loss in losses.items()})
        stalled = k >= _WINDOW and totals[-1 - _WINDOW] - total < tolerance * total
        if k == steps or (tolerance and stalled):
            break
        if method == "lbfgs" and k == 0 and z.grad is not None:
            optimizer.param_groups[0]["lr"] = _first_rate(z.grad, lr)
        # torch declares a closure that returns a float, but documents one that returns the loss.
        optimizer.step(evaluate if through else None)  # type: ignore[arg-type]
        optimizer.param_groups[0]["lr"] = lr * (start.numel() if method == "gradient" else 1)
        if not through:
            with torch.no_grad():
                z.copy_(feasible(z))
    with torch.no_grad():
        return (constraint(z) if through else z).detach()


def _make_optimizer(z: Tensor, method: Method, lr: float) -> torch.optim.Optimizer:
    if method == "adam":
        return torch.optim.Adam([z], lr=lr)
    if method == "gradient":
        return torch.optim.SGD([z], lr=lr * z.numel())
    return torch.optim.LBFGS(
        [z],
        lr=lr,
        max_iter=1,
        max_eval=25,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )


def _first_rate(gradient: Tensor, lr: float) -> float:
    """The first learning rate of L-BFGS, which torch divides by max(1, 1-norm of the gradient)."""
    slope = gradient.abs()
    steepest = slope.max().item()
    return _FIRST_STEP * max(1, slope.sum().item()) / steepest if steepest else lr


def _check_divergence(total: float, totals: Sequence[float], k: int, lr: float) -> None:
    if not total <= _DIVERGED * max(totals[:1] or [total]):
        raise RuntimeError(
            f"the solver diverged: the loss is {total:.3g} after {k} iterations"
            + (f", from {totals[0]:.3g}" if totals else "")
            + f"; lr must be lower, got {lr:g}"
        )


def _image(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        received = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating tensor in [0, 1], got {received}")
    image = tensor[None] if tensor.dim() == 3 else tensor
    if image.dim() != 4 or image.shape[:2] != (1, 3) or min(image.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"{name} must be a tensor (3, H, W) or (1, 3, H, W) with H and W at least {MIN_SIDE}, "
            f"got {tuple(tensor.shape)}"
        )
    check_range(name, image)
    return image.detach()


def _start(start: Any, content: Tensor, seed: int) -> Tensor:
    if isinstance(start, Tensor):
        image = _image("start", start)
        if image.shape != content.shape:
            raise ValueError(
                f"start must have the content's shape {tuple(content.shape)}, "
                f"got {tuple(start.shape)}"
            )
        return image.to(content)
    if start == "noise":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(content.shape, generator=generator).to(content)
    if start != "content":
        raise ValueError(f"start must be 'content', 'noise' or an image, got {start!r}")
    return content


def _scale(image: Tensor, factor: float) -> Tensor:
    return _resize(image, [max(MIN_SIDE, round(side * factor)) for side in image.shape[-2:]])


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(size) == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image, list(size), mode="bicubic", antialias=True)
