"""The operators `torch.ops.fastfcs.*`, compiled for CPU and CUDA, traceable and differentiable.

Shapes: image (B,3,H,W) in [0,1], x (B,C,H,W), features h (B,C,H,W), which are an n x C matrix with
n = H W, and Gram matrices (B,C,C); in this module C is a number of channels. Strides are arbitrary.
A wrong argument raises a ValueError of one sentence. So does a non-finite value on the CPU; on
CUDA, where detecting it would make the host wait, the result is not finite either.

Gradients, first and second, flow to x, to h and to the target of a Gram correction. Images, factors
and coefficients are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import register_autograd, register_fake

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
    return h.new_empty(h.shape)


def _fake_correction_backward(
    h: Tensor, target: Tensor, grad: Tensor, tf32: bool = False
) -> tuple[Tensor, Tensor]:
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
    """`gram_correction_backward` written with torch's own products, for second derivatives."""
    x, g = h.flatten(2).to(target.dtype), grad.flatten(2).to(target.dtype)
    n = x.shape[2]
    s = x @ g.mT
    dx = (gram(h) - target) @ g + (s + s.mT) @ x / n
    return dx.to(h.dtype).view_as(h), -s if len(target) == len(h) else -s.sum(0, keepdim=True)


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
_gram: Callable[..., Tensor] = _operator("gram", _fake_gram, _gram_backward, _save)
_gram_correction: Callable[..., Tensor] = _operator(
    "gram_correction", _fake_correction, _correction_backward, _save
)
_gram_correction_backward: Callable[..., tuple[Tensor, Tensor]] = _operator(
    "gram_correction_backward", _fake_correction_backward
)


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
