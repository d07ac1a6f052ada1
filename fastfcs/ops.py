"""The operators `torch.ops.fastfcs.*`, compiled for CPU and CUDA, traceable and differentiable.

Shapes: image (B,3,H,W) in [0,1], x (B,C,H,W), features h (B,C,H,W), which are an n x C matrix with
n = H W, and Gram matrices (B,C,C); in this module C is a number of channels. Strides are arbitrary.
A wrong argument raises a ValueError of one sentence. So does a non-finite image on the CPU; on
CUDA, where detecting it would make the host wait, the result is not finite either.

The network runs in channels_last memory, where h is stored as the n x C matrix that it is. On the
CPU, `convolution` is faster than torch's, and `gated_convolution` gates the result in the same
pass. Between convolutions lie `gate`, `halve` and `level_gradient`, one pass over memory each.
Their results are in channels_last memory and replicate-padded by one pixel on each side, ready for
the next 3x3 convolution. Half types are computed in float32 and rounded once.

Gradients, first and second, flow to x, to h and to the target of a Gram correction. Images, factors
and coefficients are constants, and so is ``by``: gates are piecewise linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import register_autograd, register_fake, register_kernel
from torch.nn import functional as F

from . import _C  # noqa: F401  registers the operators


def _fake_factors(image: Tensor, eps: float) -> Tensor:
    batch, _, height, width = image.shape
    return image.new_empty(batch, 6, height - 2, width - 2)


def _fake_matvec(image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_filter(image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fake_gram(h: Tensor, tf32: bool = False) -> Tensor:
    dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
    return h.new_empty(h.shape[0], h.shape[1], h.shape[1], dtype=dtype)


def _fake_correction(h: Tensor, target: Tensor, tf32: bool = False) -> Tensor:
    batch, channels, height, width = h.shape
    if h.is_contiguous() or h.stride(1) != 1:
        return h.new_empty(h.shape)
    return h.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _fake_cross_gram(h: Tensor, g: Tensor, tf32: bool = False) -> Tensor:
    return _fake_gram(h)


def _padded(x: Tensor, height: Any, width: Any) -> Tensor:
    """The fake result (B,C,height+2,width+2), in channels_last memory."""
    batch, channels = x.shape[:2]
    return x.new_empty(batch, height + 2, width + 2, channels).permute(0, 3, 1, 2)


def _fake_level_gradient(
    h: Tensor, weights: Tensor, coarse: Tensor | None, slope: float, tf32: bool = False
) -> Tensor:
    return _padded(h, *h.shape[2:])


def _fake_gate(x: Tensor, by: Tensor, slope: float) -> Tensor:
    return _padded(x, *x.shape[2:])


def _fake_halve(x: Tensor, by: Tensor, slope: float) -> Tensor:
    return _padded(x, (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)


def _fake_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, tiles: bool | None = False
) -> Tensor:
    batch, _, height, width = x.shape
    shape = batch, height - 2, width - 2, weight.shape[0]
    return x.new_empty(shape).permute(0, 3, 1, 2)


def _fake_gated_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> Tensor:
    convolved = _fake_convolution(x, weight, bias)
    return _padded(convolved, *convolved.shape[2:])


def _fake_adjoint(grad: Tensor, by: Tensor, slope: float) -> Tensor:
    batch, channels, height, width = by.shape
    return by.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _fake_correction_backward(
    h: Tensor, target: Tensor, grad: Tensor, tf32: bool = False
) -> tuple[Tensor, Tensor]:
    return _fake_correction(h, target), target.new_empty(target.shape)


def _fake_affine_fit(guide: Tensor, signal: Tensor, radius: int, eps: float) -> Tensor:
    batch, _, height, width = guide.shape
    return guide.new_empty(batch, 12, height, width)


def _fake_affine_apply(image: Tensor, models: Tensor) -> Tensor:
    batch, _, height, width = image.shape
    if image.is_contiguous() or image.stride(1) != 1:
        return image.new_empty(image.shape)
    return image.new_empty(batch, height, width, 3).permute(0, 3, 1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _save_constants(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, factors, _, *rest = inputs
    ctx.save_for_backward(image, factors, *rest)


# L and p(L) are symmetric.
def _matvec_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, factors = ctx.saved_tensors
    return None, None, matting_matvec(image, factors, grad)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, factors, coefficients = ctx.saved_tensors
    return None, None, matting_filter(image, factors, grad, coefficients), None


def _gram_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    # dh = h (g + g^T) / n
    (h,) = ctx.saved_tensors
    n = h.shape[2] * h.shape[3]
    return _product(h, (grad + grad.mT) / n), None


def _product(h: Tensor, weights: Tensor) -> Tensor:
    """h W, (B,C,H,W), for weights (B,C,C) or (1,C,C) of the dtype of Gram matrices.

    A general product beats `level_gradient` where nothing is added or padded. It rounds the weights
    to bfloat16, as h is rounded; float16 has too small a range for them.
    """
    dtype = h.dtype if h.dtype == torch.bfloat16 else weights.dtype
    pixels = h.permute(0, 2, 3, 1)
    result: Tensor = (pixels.flatten(1, 2).to(dtype) @ weights.to(dtype)).to(h.dtype)
    return result.view(pixels.shape).permute(0, 3, 1, 2)


def _cross_gram_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    # dh = g s^T, dg = h s
    h, g = ctx.saved_tensors
    return _product(g, grad.mT), _product(h, grad), None


def _save_level(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, weights, coarse, ctx.slope, _ = inputs
    ctx.size = None if coarse is None else coarse.shape
    ctx.save_for_backward(h, weights)


def _level_gradient_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    # dh = g w^T, dw = h^T g, dcoarse = the adjoint of enlarging s(h) g, all of the unpadded g
    h, weights = ctx.saved_tensors
    unpadded = gate_backward(grad, h, 1.0)
    dh = _product(unpadded, weights.mT)
    dweights = cross_gram(h, unpadded)
    if len(weights) < len(h):
        dweights = dweights.sum(0, keepdim=True)
    if ctx.size is None:
        return dh, dweights, None, None, None
    gated = gate_backward(grad, h, ctx.slope)
    size, coarse_size = list(h.shape[2:]), list(ctx.size)
    dcoarse = torch.ops.aten.upsample_bilinear2d_backward(gated, size, coarse_size, False)
    return dh, dweights, dcoarse, None, None


def _save_convolution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *_ = inputs
    ctx.bias_size = None if bias is None else list(bias.shape)
    ctx.save_for_backward(x, weight)


def _convolution_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors[:2]
    mask = [*ctx.needs_input_grad[:2], ctx.bias_size is not None and ctx.needs_input_grad[2]]
    geometry = [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        grad, x, weight, ctx.bias_size, *geometry, mask
    )
    return gradients


def _convolution_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_convolution_gradients(ctx, grad), None


def _save_gated_convolution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, by, ctx.slope, _ = inputs
    ctx.bias_size = None if bias is None else list(bias.shape)
    ctx.itself = by is None
    ctx.save_for_backward(x, weight, output if by is None else by)


def _gated_convolution_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    by = ctx.saved_tensors[2]
    if ctx.itself:
        by = by.narrow(2, 1, by.shape[2] - 2).narrow(3, 1, by.shape[3] - 2)
    return *_convolution_gradients(ctx, gate_backward(grad, by, ctx.slope)), None, None, None


def _save_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, by, ctx.slope = inputs
    ctx.save_for_backward(by)


def _gradient_by(adjoint: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None, None]]:
    """The gradient of a gate, which is linear in x: its adjoint, whose own adjoint is the gate."""

    def gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (by,) = ctx.saved_tensors
        return adjoint(grad, by, ctx.slope), None, None

    return gradient


def _correction_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    h, target = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return *_differentiable_backward(h, target, grad), None
    return *gram_correction_backward(h, target, grad), None


def _differentiable_backward(h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """`gram_correction_backward` written with torch's own products, for second derivatives."""
    x, g = h.flatten(2).to(target.dtype), grad.flatten(2).to(target.dtype)
    n = x.shape[2]
    s = x @ g.mT
    dx = (gram(h) - target) @ g + (s + s.mT) @ x / n
    return dx.to(h.dtype).view_as(h), -s if len(target) == len(h) else -s.sum(0, keepdim=True)


def _save_affine_fit(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    guide, _, radius, ctx.eps = inputs
    ctx.radius = min(radius, max(guide.shape[-2:]))
    ctx.save_for_backward(guide)


def _affine_fit_backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
    # The adjoint of every step of the fit, which is linear in the signal p.
    (guide,) = ctx.saved_tensors
    batch, _, height, width = guide.shape
    side = 2 * ctx.radius + 1

    def sums(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, side, 1, ctx.radius, divisor_override=1)

    pixels = sums(torch.ones_like(guide.narrow(0, 0, 1).narrow(1, 0, 1)))
    mean = sums(guide) / pixels
    products = (guide.unsqueeze(2) * guide.unsqueeze(1)).flatten(1, 2)
    s = (sums(products) / pixels).view(batch, 3, 3, height, width)
    s = (s - mean.unsqueeze(2) * mean.unsqueeze(1)).permute(0, 3, 4, 1, 2)
    inverse = torch.linalg.inv(s + ctx.eps * torch.eye(3, dtype=s.dtype, device=s.device))
    da, db = sums(grad / pixels).view(batch, 3, 4, height, width).split([3, 1], 2)
    da = (da - db * mean.unsqueeze(1)).permute(0, 3, 4, 1, 2)
    dcov = (da @ inverse).permute(0, 3, 4, 1, 2)
    dmean = db.squeeze(2) - (dcov * mean.unsqueeze(1)).sum(2)
    dproducts = sums((dcov / pixels.unsqueeze(1)).flatten(1, 2)).view_as(dcov)
    return None, sums(dmean / pixels) + (dproducts * guide.unsqueeze(1)).sum(2), None, None


def _save_affine_apply(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _affine_apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    image, models = ctx.saved_tensors
    batch, _, rows, columns = models.shape
    a, b = models.view(batch, 3, 4, rows, columns).split([3, 1], 2)
    transposed = torch.cat([a.transpose(1, 2), torch.zeros_like(b)], 2).flatten(1, 2)
    colours = torch.cat([image, torch.ones_like(image.narrow(1, 0, 1))], 1)
    dmodels = (grad.unsqueeze(2) * colours.unsqueeze(1)).flatten(1, 2)
    size, small = list(image.shape[2:]), list(models.shape)
    dmodels = torch.ops.aten.upsample_bilinear2d_backward(dmodels, size, small, False)
    return affine_apply(grad, transposed), dmodels


def _no_gradient(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    return (None,) * len(ctx.needs_input_grad)


def _mark_constant(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))


def _check_no_tangents(name: str, inputs: tuple[Any, ...]) -> None:
    """Raise an error where torch would silently take a forward-mode derivative to be 0."""
    for x in inputs:
        if not isinstance(x, Tensor):
            continue
        if forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(f"fastfcs.{name} has no forward-mode derivative")


def _operator(
    name: str,
    fake: Callable[..., Any],
    gradient: Callable[..., Any] = _no_gradient,
    save: Callable[..., None] = _mark_constant,
) -> Callable[..., Any]:
    """Register an operator's shapes and gradient, and return the function that calls it.

    Tracing and function transforms go through torch.library's dispatch. Every call could, but that
    takes 8 us, or 30 us with a gradient; `_direct` reaches the same kernels and formulas in 2 us
    and 11 us through torch's private API. A torch that lacks it takes the public path.
    """
    operator = getattr(torch.ops.fastfcs, name).default
    register_fake(f"fastfcs::{name}", fake)
    register_autograd(f"fastfcs::{name}", gradient, setup_context=save)

    def dispatched(*inputs: Any) -> Any:
        if not torch.compiler.is_compiling():
            _check_no_tangents(name, inputs)
        return operator(*inputs)

    try:
        return _direct(operator, gradient, save, dispatched)
    except AttributeError:
        return dispatched


def _direct(
    operator: Callable[..., Any],
    gradient: Callable[..., Any],
    save: Callable[..., None],
    dispatched: Callable[..., Any],
) -> Callable[..., Any]:
    """Call an operator without torch.library's dispatch, unless it is traced or transformed.

    Only this function and `_tf32_allowed` use torch's private API.

    Raises:
        AttributeError: torch lacks a private name.
    """
    below_autograd: Any = torch._C._AutoDispatchBelowAutograd
    transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
    any_requires_grad: Callable[..., bool] = torch._C._any_requires_grad
    _ = forward_ad._current_level  # the level itself changes, and is read in every call

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            with below_autograd():
                output = operator(*inputs)
            save(ctx, inputs, output)
            return output

        backward = staticmethod(gradient)

    # The base class's apply, because Function's own adds 4 us to support function transforms.
    apply: Callable[..., Any] = super(torch.autograd.Function, Function).apply

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or forward_ad._current_level >= 0 or transforms_active():
            return dispatched(*inputs)
        if torch.is_grad_enabled() and any_requires_grad(*inputs):
            return apply(*inputs)
        with below_autograd():
            return operator(*inputs)

    return call


_matting_factors: Callable[..., Tensor] = _operator("matting_factors", _fake_factors)
_matting_matvec: Callable[..., Tensor] = _operator(
    "matting_matvec", _fake_matvec, _matvec_backward, _save_constants
)
_matting_filter: Callable[..., Tensor] = _operator(
    "matting_filter", _fake_filter, _filter_backward, _save_constants
)
_affine_fit: Callable[..., Tensor] = _operator(
    "affine_fit", _fake_affine_fit, _affine_fit_backward, _save_affine_fit
)
_affine_apply: Callable[..., Tensor] = _operator(
    "affine_apply", _fake_affine_apply, _affine_apply_backward, _save_affine_apply
)
_gram: Callable[..., Tensor] = _operator("gram", _fake_gram, _gram_backward, _save)
_gram_correction: Callable[..., Tensor] = _operator(
    "gram_correction", _fake_correction, _correction_backward, _save
)
_gram_correction_backward: Callable[..., tuple[Tensor, Tensor]] = _operator(
    "gram_correction_backward", _fake_correction_backward
)
_cross_gram: Callable[..., Tensor] = _operator(
    "cross_gram", _fake_cross_gram, _cross_gram_backward, _save
)
_level_gradient: Callable[..., Tensor] = _operator(
    "level_gradient", _fake_level_gradient, _level_gradient_backward, _save_level
)
_convolution: Callable[..., Tensor] = _operator(
    "convolution", _fake_convolution, _convolution_backward, _save_convolution
)
_gated_convolution: Callable[..., Tensor] = _operator(
    "gated_convolution",
    _fake_gated_convolution,
    _gated_convolution_backward,
    _save_gated_convolution,
)
_gate: Callable[..., Tensor] = _operator(
    "gate", _fake_gate, _gradient_by(lambda *x: _gate_backward(*x)), _save_gate
)
_gate_backward: Callable[..., Tensor] = _operator(
    "gate_backward", _fake_adjoint, _gradient_by(_gate), _save_gate
)
_halve: Callable[..., Tensor] = _operator(
    "halve", _fake_halve, _gradient_by(lambda *x: _halve_backward(*x)), _save_gate
)
_halve_backward: Callable[..., Tensor] = _operator(
    "halve_backward", _fake_adjoint, _gradient_by(_halve), _save_gate
)


def _convolution_on_cuda(
    x: Tensor, weight: Tensor, bias: Tensor | None, tiles: bool | None = False
) -> Tensor:
    """For programs that were exported on the CPU."""
    result: Tensor = torch.nn.functional.conv2d(x, weight, bias)
    return result.contiguous(memory_format=torch.channels_last)


def _gated_convolution_on_cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    by: Tensor | None,
    slope: float,
    tiles: bool | None = False,
) -> Tensor:
    convolved = _convolution_on_cuda(x, weight, bias)
    return _gate(convolved, convolved if by is None else by, slope)


register_kernel("fastfcs::convolution", "cuda", _convolution_on_cuda)
register_kernel("fastfcs::gated_convolution", "cuda", _gated_convolution_on_cuda)


def _tf32_allowed() -> bool:
    """Whether torch's own float32 products on CUDA may currently be rounded to TF32.

    ``torch.backends.cuda.matmul.fp32_precision`` and the older ``allow_tf32`` set the same state.
    Reading the latter raises where both were used, and the former cannot be traced by
    torch.compile, so the private getter is preferred.
    """
    if torch.compiler.is_compiling() or not hasattr(torch._C, "_get_fp32_precision_getter"):
        allowed: bool = torch.backends.cuda.matmul.allow_tf32
        return allowed
    precision: str = torch._C._get_fp32_precision_getter("cuda", "matmul")
    return precision == "tf32"


def _tf32(h: Tensor) -> bool:
    return h.is_cuda and h.dtype == torch.float32 and _tf32_allowed()


def matting_factors(image: Tensor, eps: float = 1e-7) -> Tensor:
    """Precompute the per-window factors of a matting Laplacian (Levin et al. 2008).

    Call once per image.

    Args:
        image: (B,3,H,W), float32 or float64, finite, H and W at least 3.
        eps: regularisation of the windows' covariances, positive.

    Returns:
        (B,6,H-2,W-2) in the image's dtype: for each 3x3 window the upper triangle, row by row, of K
        with K K^T = (S_w + eps/9 I)^-1, computed in float64.

    Raises:
        ValueError: the image's shape, dtype or values are wrong, or eps is not positive.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import matting_factors
        >>> matting_factors(torch.rand(1, 3, 8, 9)).shape
        torch.Size([1, 6, 6, 7])
    """
    return _matting_factors(image, eps)


def matting_matvec(image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
    """Compute L x, where L is the image's matting Laplacian (Levin et al. 2008).

    L itself is never stored.

    Args:
        image: (B,3,H,W), float32 or float64, finite.
        factors: the image's, from :func:`matting_factors`.
        x: (B,C,H,W), finite, in the image's dtype and on its device.

    Returns:
        (B,C,H,W). In float32 the relative error is below 1e-5 on photographs.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a value is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import matting_factors, matting_matvec
        >>> image = torch.rand(1, 3, 8, 9)
        >>> constant = torch.ones(1, 1, 8, 9)
        >>> product = matting_matvec(image, matting_factors(image), constant)
        >>> torch.allclose(product, torch.zeros_like(constant), atol=1e-6)
        True
    """
    return _matting_matvec(image, factors, x)


def matting_filter(image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
    """Compute p(L) x = sum_k c_k T_k(2 L / 9 - I) x: the whole Chebyshev recurrence in one call.

    Args:
        image: (B,3,H,W), float32 or float64, finite.
        factors: the image's, from :func:`matting_factors`.
        x: (B,C,H,W), finite, in the image's dtype and on its device.
        coefficients: c_0 ... c_order, float64 on the CPU; c_0 is not halved.

    Returns:
        (B,C,H,W).

    Raises:
        ValueError: a shape, dtype or device is wrong, or a value is not finite.

    Examples:
        One step of diffusion, I - L / 9:

        >>> import torch
        >>> from fastfcs.ops import matting_factors, matting_filter, matting_matvec
        >>> image, x = torch.rand(2, 1, 3, 8, 9, dtype=torch.float64)
        >>> factors = matting_factors(image)
        >>> coefficients = torch.tensor([0.5, -0.5], dtype=torch.float64)
        >>> diffused = x - matting_matvec(image, factors, x) / 9
        >>> torch.allclose(matting_filter(image, factors, x, coefficients), diffused)
        True
    """
    return _matting_filter(image, factors, x, coefficients)


def affine_fit(guide: Tensor, signal: Tensor, radius: int = 4, eps: float = 1e-4) -> Tensor:
    """Fit local affine models of a signal in a guide's colours: the colour guided filter.

    In every window w of (2 radius + 1)^2 pixels, without those beyond the border, a_w and b_w
    minimise the mean of |a_w . I + b_w - p|^2 + eps |a_w|^2 (He et al. 2013, "Guided Image
    Filtering"). A pixel's model is the mean over the windows that contain it.

    Args:
        guide: I, (B,3,H,W), float32 or float64.
        signal: p, (B,3,H,W), in the guide's dtype and on its device.
        radius: of the windows, at least 1.
        eps: regularisation, positive, in squared units of the guide.

    Returns:
        (B,12,H,W) in the guide's dtype: a_0 a_1 a_2 b of each of the signal's channels. Gradients
        flow to the signal; the guide is a constant.

    Raises:
        ValueError: a shape, dtype or device is wrong, the radius is below 1, or eps is not
            positive.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import affine_fit
        >>> guide = torch.rand(1, 3, 20, 30, dtype=torch.float64)
        >>> models = affine_fit(guide, 0.5 * guide + 0.25, eps=1e-12)
        >>> models.view(3, 4, 20, 30).mean((2, 3)).mul(100).round().add(0.0)
        tensor([[50.,  0.,  0., 25.],
                [ 0., 50.,  0., 25.],
                [ 0.,  0., 50., 25.]], dtype=torch.float64)
    """
    return _affine_fit(guide, signal, radius, eps)


def affine_apply(image: Tensor, models: Tensor) -> Tensor:
    """Apply affine models of colours to an image of any size, in one pass over it.

    The models are enlarged, or reduced, to the image's size by bilinear interpolation with corners
    not aligned. Integer samples stand for [0, 1]. Their results are bent into it as
    `fastfcs.constraints.SoftClip` does, and rounded once; floats are not bounded.

    Args:
        image: I, (B,3,H,W), uint8, uint16, float32 or float64, contiguous or in channels_last
            memory, as the samples of a file are; other strides are copied first.
        models: (B,12,h,w), as :func:`affine_fit` returns them: float64 for an image in float64,
            and float32 for all others; on the image's device.

    Returns:
        a . I + b, of the image's shape, dtype and memory format. Gradients flow to the models and
        to an image in floats.

    Raises:
        ValueError: a shape, dtype or device is wrong.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import affine_apply
        >>> darker = torch.tensor([[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0.5, 0]])
        >>> image = torch.full((1, 3, 4, 6), 100, dtype=torch.uint8)
        >>> affine_apply(image, darker.view(1, 12, 1, 1)).unique()
        tensor([50], dtype=torch.uint8)
    """
    return _affine_apply(image, models)


def gram(h: Tensor) -> Tensor:
    """Compute the Gram matrix G = h^T h / n of features h, an n x C matrix (Gatys et al. 2016).

    Args:
        h: (B,C,H,W), float16, bfloat16, float32 or float64. On CUDA, float32 is multiplied in TF32
            where ``torch.backends.cuda.matmul.allow_tf32`` is set, as in the functions below.

    Returns:
        (B,C,C) in h's dtype, or float32 for half types; accumulated at least in float32.

    Raises:
        ValueError: h's shape or dtype is wrong.

    Examples:
        >>> import torch
        >>> from fastfcs import gram
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 2.0]]).view(1, 2, 1, 2))
        tensor([[[2.5000, 2.0000],
                 [2.0000, 2.0000]]])
    """
    return _gram(h, _tf32(h))


def gram_correction(h: Tensor, target: Tensor) -> Tensor:
    """Compute h (h^T h / n - H), the gradient of a Gram loss up to scale (Puy and Pérez 2018).

    Args:
        h: (B,C,H,W), float16, bfloat16, float32 or float64.
        target: H, (B,C,C) or (1,C,C), in the dtype of :func:`gram`; need not be symmetric.

    Returns:
        (B,C,H,W) in h's dtype.

    Raises:
        ValueError: a shape, dtype or device is wrong.

    Examples:
        For a symmetric H it is the gradient of n/4 ||G - H||^2:

        >>> import torch
        >>> from fastfcs import gram, gram_correction
        >>> h = torch.rand(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
        >>> target = torch.eye(3, dtype=torch.float64)[None]
        >>> loss = 20 / 4 * (gram(h) - target).square().sum()
        >>> (gradient,) = torch.autograd.grad(loss, h)
        >>> torch.allclose(gram_correction(h, target), gradient)
        True
    """
    return _gram_correction(h, target, _tf32(h))


def gram_correction_backward(h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of :func:`gram_correction` with respect to h and H.

    With S = h^T g: dh = g (G - H)^T + h (S + S^T) / n and dH = -S. This function itself is not
    differentiable.

    Args:
        h: (B,C,H,W), as in :func:`gram_correction`.
        target: H, (B,C,C) or (1,C,C), as there.
        grad: g, the gradient with respect to the output, of h's shape and dtype.

    Returns:
        dh, of h's shape, and dH, of the target's; a single target's is summed over the batch.

    Raises:
        ValueError: a shape, dtype or device is wrong.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import gram_correction_backward
        >>> h, grad = torch.rand(2, 4, 3, 5, 6)
        >>> dh, dtarget = gram_correction_backward(h, torch.eye(3)[None], grad)
        >>> dh.shape, dtarget.shape
        (torch.Size([4, 3, 5, 6]), torch.Size([1, 3, 3]))
    """
    return _gram_correction_backward(h, target, grad, _tf32(h))


def cross_gram(h: Tensor, g: Tensor) -> Tensor:
    """Compute h^T g of two arrays of features, the gradient of `level_gradient` in its weights.

    Args:
        h, g: (B,C,H,W), float16, bfloat16, float32 or float64, both of the same dtype.

    Returns:
        (B,C,C) in the dtype of :func:`gram`; not divided by n.

    Raises:
        ValueError: a shape, dtype or device is wrong.

    Examples:
        >>> import torch
        >>> from fastfcs import gram
        >>> from fastfcs.ops import cross_gram
        >>> h = torch.rand(1, 3, 4, 5)
        >>> torch.allclose(cross_gram(h, h), 20 * gram(h))
        True
    """
    return _cross_gram(h, g, _tf32(h))


def level_gradient(
    h: Tensor, weights: Tensor, coarse: Tensor | None = None, slope: float = 0.2
) -> Tensor:
    """Compute the gradient that arrives at a level: h W + s(h) U g.

    h W is the level's own correction. U g is the gradient of the level below it, enlarged
    bilinearly (corners not aligned), and s(h), 1 where h > 0 and ``slope`` elsewhere, is the slope
    of the leaky ReLU that lies between the two levels.

    Args:
        h: features (B,C,H,W), float16, bfloat16, float32 or float64.
        weights: W, (B,C,C) or (1,C,C), in the dtype of :func:`gram`.
        coarse: g, (B,C,ceil(H/2),ceil(W/2)) in h's dtype; None omits the second term.
        slope: the slope for negative inputs.

    Returns:
        (B,C,H+2,W+2) in h's dtype, replicate-padded.

    Raises:
        ValueError: a shape, dtype or device is wrong, or the slope is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import level_gradient
        >>> h, coarse = torch.rand(1, 3, 4, 6), torch.full((1, 3, 2, 3), 0.5)
        >>> result = level_gradient(h, torch.eye(3)[None], coarse)
        >>> torch.allclose(result[:, :, 1:-1, 1:-1], h + 0.5)
        True
    """
    return _level_gradient(h, weights, coarse, slope, _tf32(h))


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, tiles: bool | None = False
) -> Tensor:
    """Convolve features by 3x3 weights on the CPU, faster than torch does.

    Winograd's algorithm F(2x2,3x3) takes 4 products in place of 9 (Lavin and Gray 2016,
    arXiv:1509.09308), and is as exact as torch's convolution. It serves from 32 channels on. The
    tiles of AMX are faster still: every number is split into two bfloat16 parts, three products of
    which are added up in float32 (Henry et al. 2019, arXiv:1904.06376), and the relative error is
    5e-6. bfloat16 is always multiplied in tiles, exactly, and rounded once. CUDA tensors are
    convolved by torch.

    Args:
        x: padded features (B,C,H+2,W+2), float32 or bfloat16.
        weight: (outputs,C,3,3), in x's dtype.
        bias: (outputs,), in x's dtype, or none.
        tiles: whether to multiply float32 in tiles, which processors without AMX emulate slowly;
            None stands for wherever they are faster.

    Returns:
        (B,outputs,H,W), in x's dtype and in channels_last memory.

    Raises:
        ValueError: a shape, dtype or device is wrong.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import convolution
        >>> x, weight = torch.rand(1, 3, 6, 7), torch.rand(5, 3, 3, 3)
        >>> exact = torch.nn.functional.conv2d(x.double(), weight.double()).float()
        >>> torch.allclose(convolution(x, weight), exact, rtol=1e-6)
        True
    """
    return _convolution(x, weight, bias, tiles)


def gated_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    by: Tensor | None = None,
    slope: float = 0.2,
    tiles: bool | None = False,
) -> Tensor:
    """Compute the :func:`gate` of a :func:`convolution` in one pass.

    Args:
        x, weight, bias, tiles: see :func:`convolution`.
        by: (B,outputs,H,W), in x's dtype, see :func:`gate`; by default the convolution itself,
            which makes the gate a leaky ReLU.
        slope: see :func:`gate`.

    Returns:
        (B,outputs,H+2,W+2), in x's dtype, replicate-padded, in channels_last memory.

    Raises:
        ValueError: a shape, dtype or device is wrong, or the slope is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import convolution, gate, gated_convolution
        >>> x, weight = torch.randn(1, 3, 6, 7), torch.randn(5, 3, 3, 3)
        >>> convolved = convolution(x, weight)
        >>> torch.equal(gated_convolution(x, weight), gate(convolved, convolved))
        True
    """
    return _gated_convolution(x, weight, bias, by, slope, tiles)


def gate(x: Tensor, by: Tensor, slope: float = 0.2) -> Tensor:
    """Backpropagate x through a leaky ReLU whose inputs were ``by``, and pad the result.

    ``gate(x, x)`` is the leaky ReLU itself.

    Args:
        x: (B,C,H,W), float16, bfloat16, float32 or float64.
        by: of x's shape and dtype; x is multiplied by the slope where this is not positive. The
            outputs of the leaky ReLU serve as well as its inputs.
        slope: the slope for negative inputs; 1 only pads.

    Returns:
        (B,C,H+2,W+2), replicate-padded, in x's dtype.

    Raises:
        ValueError: a shape, dtype or device is wrong, or the slope is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import gate
        >>> x = torch.tensor([[[[-1.0, 1.0]]]])
        >>> gate(x, x)
        tensor([[[[-0.2000, -0.2000,  1.0000,  1.0000],
                  [-0.2000, -0.2000,  1.0000,  1.0000],
                  [-0.2000, -0.2000,  1.0000,  1.0000]]]])
    """
    return _gate(x, by, slope)


def gate_backward(grad: Tensor, by: Tensor, slope: float = 0.2) -> Tensor:
    """Compute the gradient of :func:`gate` in x: its adjoint.

    Args:
        grad: (B,C,H+2,W+2), the gradient of the padded result.
        by: (B,C,H,W), as in :func:`gate`, in the same dtype.
        slope: as in :func:`gate`.

    Returns:
        (B,C,H,W).

    Raises:
        ValueError: a shape, dtype or device is wrong, or the slope is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import gate_backward
        >>> gate_backward(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 1, 2))
        tensor([[[[6., 6.]]]])
    """
    return _gate_backward(grad, by, slope)


def halve(x: Tensor, by: Tensor, slope: float = 0.2) -> Tensor:
    """Average cells of 2 x 2 pixels of the gated x, and pad the result.

    ``halve(x, x)`` averages the leaky ReLU of x.

    Args:
        x, by, slope: see :func:`gate`. In cells that the border cuts off, the mean is that of the
            pixels that there are.

    Returns:
        (B,C,ceil(H/2)+2,ceil(W/2)+2), replicate-padded, in x's dtype.

    Raises:
        ValueError: a shape, dtype or device is wrong, or the slope is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import halve
        >>> x = torch.tensor([[[[1.0, 3.0, -5.0]]]])
        >>> halve(x, x)[0, 0, 1]
        tensor([ 2.,  2., -1., -1.])
    """
    return _halve(x, by, slope)


def halve_backward(grad: Tensor, by: Tensor, slope: float = 0.2) -> Tensor:
    """Compute the gradient of :func:`halve` in x: its adjoint.

    Args:
        grad: (B,C,ceil(H/2)+2,ceil(W/2)+2), the gradient of the padded result.
        by, slope: see :func:`gate_backward`.

    Returns:
        (B,C,H,W).

    Raises:
        ValueError: a shape, dtype or device is wrong, or the slope is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.ops import halve_backward
        >>> halve_backward(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 1, 3))
        tensor([[[[3., 3., 6.]]]])
    """
    return _halve_backward(grad, by, slope)
