"""The operators `torch.ops.fastfcs.*`, compiled for CPU and CUDA, traceable and differentiable.

Shapes: image (B,3,H,W) in [0,1], x (B,C,H,W), h (B,C,H,W) with n = H W, Gram matrices (B,C,C).
Any strides are accepted. Every refusal is a ValueError of one sentence. Values that are not finite
are refused on the CPU; on CUDA, where looking for them would make the host wait, they give results
that are not finite.

x is differentiated, and so are h and the target of a Gram correction, once. Images, factors and
coefficients are constants: no gradient flows to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import register_autograd, register_fake

from . import _C  # noqa: F401  registers the operators

_ops = torch.ops.fastfcs


@register_fake("fastfcs::matting_factors")
def _(image: Tensor, eps: float) -> Tensor:
    batch, _, height, width = image.shape
    return image.new_empty(batch, 6, height - 2, width - 2)


@register_fake("fastfcs::matting_matvec")
def _(image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@register_fake("fastfcs::matting_filter")
def _(image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _gram_dtype(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32


@register_fake("fastfcs::gram")
def _(h: Tensor, tf32: bool = False) -> Tensor:
    return h.new_empty(h.shape[0], h.shape[1], h.shape[1], dtype=_gram_dtype(h))


@register_fake("fastfcs::gram_correction")
def _(h: Tensor, target: Tensor, tf32: bool = False) -> Tensor:
    return h.new_empty(h.shape)


@register_fake("fastfcs::gram_correction_backward")
def _(h: Tensor, target: Tensor, grad: Tensor, tf32: bool = False) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), target.new_empty(target.shape)


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
    symmetric = (grad + grad.mT) / n  # 1 / n would vanish in float16
    return torch.einsum("bcd,bchw->bdhw", symmetric, h.to(grad.dtype)).to(h.dtype), None


def _correction_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    h, target = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return *_differentiable_backward(h, target, grad), None
    return *gram_correction_backward(h, target, grad), None


def _differentiable_backward(h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """`gram_correction_backward` by torch's own products, for a second derivative."""
    x, g = h.flatten(2).to(target.dtype), grad.flatten(2).to(target.dtype)
    n = x.shape[2]
    s = x @ g.mT
    dx = (gram(h) - target) @ g + (s + s.mT) @ x / n
    return dx.to(h.dtype).view_as(h), -s if len(target) == len(h) else -s.sum(0, keepdim=True)


def _no_gradient(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    return (None,) * len(ctx.needs_input_grad)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))


def _refuse_tangents(name: str, inputs: tuple[Any, ...]) -> None:
    """Forward-mode derivatives would be 0 without a word."""
    for x in inputs:
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(f"fastfcs.{name} has no forward-mode derivative")


def _operator(
    name: str, gradient: Callable[..., Any] = _no_gradient, save: Callable[..., None] = _constant
) -> Callable[..., Any]:
    """The operator, differentiable, and cheap to call.

    What `register_autograd` makes of it serves tracing and direct calls of the operator, but costs
    8 us a call, 30 us with a gradient. The same formulas are reached here in 2 us and 11 us.
    """
    operator = getattr(_ops, name).default
    register_autograd(f"fastfcs::{name}", gradient, setup_context=save)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                output = operator(*inputs)
            save(ctx, inputs, output)
            return output

        backward = staticmethod(gradient)

    # Function.apply itself, without what it does for function transforms, which takes 4 us.
    apply = super(torch.autograd.Function, Function).apply  # type: ignore[misc]

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return operator(*inputs)
        if forward_ad._current_level >= 0:
            _refuse_tangents(name, inputs)
        if torch._C._are_functorch_transforms_active():
            return operator(*inputs)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return call


_matting_factors = _operator("matting_factors")
_matting_matvec = _operator("matting_matvec", _matvec_backward, _save_constants)
_matting_filter = _operator("matting_filter", _filter_backward, _save_constants)
_gram = _operator("gram", _gram_backward, _save)
_gram_correction = _operator("gram_correction", _correction_backward, _save)
_gram_correction_backward = _operator("gram_correction_backward")


def _tf32_allowed() -> bool:
    """Whether torch's own products of float32 on CUDA may be rounded to TF32, now.

    However it was asked for: ``torch.backends.cuda.matmul.fp32_precision`` and the older
    ``allow_tf32`` know of each other, but the latter raises where both were used, and the former is
    not traced by torch.compile.
    """
    if torch.compiler.is_compiling():
        return torch.backends.cuda.matmul.allow_tf32
    return torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32"


def _tf32(h: Tensor) -> bool:
    return h.is_cuda and h.dtype == torch.float32 and _tf32_allowed()


def matting_factors(image: Tensor, eps: float = 1e-7) -> Tensor:
    """What a matting Laplacian (Levin et al. 2008) needs of its image, once an image.

    Args:
        image: (B,3,H,W), float32 or float64, finite, H and W at least 3.
        eps: regularisation of the windows' covariances, positive.

    Returns:
        (B,6,H-2,W-2) in the image's dtype: for each 3x3 window the upper triangle, row by row, of K
        with K K^T = (S_w + eps/9 I)^-1, computed in float64.

    Raises:
        ValueError: a wrong shape, dtype or eps, or an image that is not finite.
    """
    return _matting_factors(image, eps)


def matting_matvec(image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
    """L x, L the image's matting Laplacian (Levin et al. 2008), which never exists in memory.

    Args:
        image: (B,3,H,W), float32 or float64, finite.
        factors: of this image, see :func:`matting_factors`.
        x: (B,C,H,W), finite, in the image's dtype and on its device.

    Returns:
        (B,C,H,W). In float32 the relative error is below 1e-5 on photographs.

    Raises:
        ValueError: a wrong shape, dtype or device, or values that are not finite.
    """
    return _matting_matvec(image, factors, x)


def matting_filter(image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
    """p(L) x = sum_k c_k T_k(2 L / 9 - I) x, the whole Chebyshev recurrence in one call.

    Args:
        image: (B,3,H,W), float32 or float64, finite.
        factors: of this image, see :func:`matting_factors`.
        x: (B,C,H,W), finite, in the image's dtype and on its device.
        coefficients: c_0 ... c_order, float64 on the CPU; c_0 is not halved.

    Returns:
        (B,C,H,W).

    Raises:
        ValueError: a wrong shape, dtype or device, or values that are not finite.
    """
    return _matting_filter(image, factors, x, coefficients)


def gram(h: Tensor) -> Tensor:
    """The Gram matrix G = h^T h / n of features h, an n x C matrix (Gatys et al. 2016).

    Args:
        h: (B,C,H,W), float16, bfloat16, float32 or float64. On CUDA, float32 is multiplied in TF32
            where ``torch.backends.cuda.matmul.allow_tf32`` asks for it; so it is below.

    Returns:
        (B,C,C) in h's dtype, float32 for half types; accumulated in float32 at least.

    Raises:
        ValueError: a wrong shape or dtype.
    """
    return _gram(h, _tf32(h))


def gram_correction(h: Tensor, target: Tensor) -> Tensor:
    """h (h^T h / n - H): the gradient of a Gram loss but for its scale (Puy and Pérez 2018).

    Args:
        h: (B,C,H,W), float16, bfloat16, float32 or float64.
        target: H, (B,C,C) or (1,C,C), in the dtype of :func:`gram`; need not be symmetric.

    Returns:
        (B,C,H,W) in h's dtype.

    Raises:
        ValueError: a wrong shape, dtype or device.
    """
    return _gram_correction(h, target, _tf32(h))


def gram_correction_backward(h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`gram_correction` with respect to h and H. Not differentiable itself.

    With S = h^T g: dh = g (G - H)^T + h (S + S^T) / n and dH = -S.

    Args:
        h: (B,C,H,W), as in :func:`gram_correction`.
        target: H, (B,C,C) or (1,C,C), as there.
        grad: g, the gradient at the output, of h's shape and dtype.

    Returns:
        dh, of h's shape, and dH, of the target's (for a single one, summed over the batch).

    Raises:
        ValueError: a wrong shape, dtype or device.
    """
    return _gram_correction_backward(h, target, grad, _tf32(h))
