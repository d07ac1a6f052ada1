"""SOAP (Vyas et al., arXiv:2409.11321): Adam in the eigenbases of Shampoo's preconditioners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

_BETA1, _BETA2, _EPS = 0.9, 0.95, 1e-8


class SOAP:
    """The optimiser. It stacks parameters of equal shape, so a step takes a few hundred kernels.

    A weight is preconditioned along each of its dimensions. A bias is not, so it moves as in Adam.
    The first step only initialises the preconditioners and changes no parameter.

    Args:
        parameters: float32 parameters. One without a gradient is treated as having a gradient of 0.
        refresh: number of steps between updates of the eigenbases.

    Attributes:
        steps: number of steps taken.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from fastfcs.training.soap import SOAP
        >>> x = nn.Parameter(torch.tensor([3.0, -1.0]))
        >>> optimizer = SOAP([x])
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     torch.autograd.backward(x.square().sum())
        ...     optimizer.step(lr=0.05)
        >>> bool(x.abs().max() < 0.1)
        True
    """

    def __init__(self, parameters: Iterable[nn.Parameter], refresh: int = 10) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            shapes[parameter.shape].append(parameter)
        self._stacks = [_Stack(parameters) for parameters in shapes.values()]
        self._refresh = refresh
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, for a checkpoint.

        Returns:
            The number of steps, and the tensors themselves, not copies, of every shape.
        """
        return {"steps": self.steps, "stacks": [stack.tensors() for stack in self._stacks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Args:
            state: the result of `state_dict` of an optimiser of the same parameters.

        Raises:
            KeyError, ValueError, RuntimeError: the state belongs to other parameters.
        """
        for stack, saved in zip(self._stacks, state["stacks"], strict=True):
            for name, tensor in stack.tensors().items():
                tensor.copy_(saved[name])
        self.steps = state["steps"]

    def zero_grad(self) -> None:
        """Discard all gradients."""
        for stack in self._stacks:
            for parameter in stack.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the parameters from their gradients.

        Args:
            lr: the learning rate of this step.
        """
        if self.steps:
            lr *= sqrt(1 - _BETA2**self.steps) / (1 - _BETA1**self.steps)
        for stack in self._stacks:
            gradient = stack.gradient()
            if self.steps:
                stack.update(gradient, lr)
            stack.accumulate(gradient)
        if self.steps == 0:
            self._initialise_bases()
        elif self.steps % self._refresh == 0:
            self._refresh_bases()
        self.steps += 1

    def _initialise_bases(self) -> None:
        for stack in self._stacks:
            for moment, basis in zip(stack.moments, stack.bases, strict=True):
                basis.copy_(torch.linalg.eigh(moment).eigenvectors.flip(-1))

    def _refresh_bases(self) -> None:
        """Take one power iteration; matrices of equal size share one QR across all stacks."""
        means = [stack.rotate_back(stack.mean) for stack in self._stacks]
        products: dict[int, list[Tensor]] = defaultdict(list)
        bases: dict[int, list[Tensor]] = defaultdict(list)
        for stack in self._stacks:
            for dimension, (moment, basis) in enumerate(
                zip(stack.moments, stack.bases, strict=True), start=1
            ):
                product = moment @ basis
                order = (basis * product).sum(-2).argsort(dim=-1, descending=True)
                stack.reorder(dimension, order)
                size = order.shape[-1]
                products[size].append(product.take_along_dim(order[:, None], 2))
                bases[size].append(basis)
        for size, stacked in products.items():
            q = torch.linalg.qr(torch.cat(stacked)).Q
            split = torch.split(q, [len(product) for product in stacked])
            for basis, part in zip(bases[size], split, strict=True):
                basis.copy_(part)
        for stack, mean in zip(self._stacks, means, strict=True):
            stack.mean.copy_(stack.rotate(mean))


class _Stack:
    """The k parameters of one shape and their state, in arrays (k, d_1, d_2, ...), see `_array`.

    The mean and the variance of the gradient are those of its components in the eigenbases.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        arrays = torch.stack([_array(p.detach()) for p in parameters])
        self.mean, self.variance = torch.zeros_like(arrays), torch.zeros_like(arrays)
        sizes = arrays.shape[1:] if arrays.dim() > 2 else ()
        self.moments = [arrays.new_zeros(len(arrays), size, size) for size in sizes]
        self.bases = [torch.zeros_like(moment) for moment in self.moments]

    def tensors(self) -> dict[str, Tensor]:
        state = {"mean": self.mean, "variance": self.variance}
        for k, (moment, basis) in enumerate(zip(self.moments, self.bases, strict=True)):
            state |= {f"moment {k}": moment, f"basis {k}": basis}
        return state

    def gradient(self) -> Tensor:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.stack([_array(g) for g in gradients])

    def update(self, gradient: Tensor, lr: float) -> None:
        """Take a step of Adam in the eigenbases."""
        rotated = self.rotate(gradient)
        self.mean.lerp_(rotated, 1 - _BETA1)
        self.variance.mul_(_BETA2).addcmul_(rotated, rotated, value=1 - _BETA2)
        step = self.rotate_back(self.mean / self.variance.sqrt().add_(_EPS))
        arrays = [_array(p.detach()) for p in self.parameters]
        torch._foreach_add_(arrays, list(step.unbind()), alpha=-lr)

    def accumulate(self, gradient: Tensor) -> None:
        """Update the second moments of the gradient along each dimension."""
        for dimension, moment in enumerate(self.moments, start=1):
            rows = _columns(gradient, dimension)
            moment.lerp_((rows @ rows.mT).sum(1), 1 - _BETA2)

    def reorder(self, dimension: int, order: Tensor) -> None:
        """Permute the variances as the basis (k, d, d) of a dimension is permuted."""
        shape = [n if d in (0, dimension) else 1 for d, n in enumerate(self.variance.shape)]
        index = order.view(shape).expand_as(self.variance)
        self.variance.copy_(self.variance.gather(dimension, index))

    def rotate(self, x: Tensor) -> Tensor:
        """The components of x in the eigenbases."""
        for dimension, basis in enumerate(self.bases, start=1):
            x = _multiply(x, dimension, basis)
        return x

    def rotate_back(self, x: Tensor) -> Tensor:
        """The array whose components in the eigenbases are x."""
        for dimension, basis in enumerate(self.bases, start=1):
            x = _multiply(x, dimension, basis.mT)
        return x


def _array(parameter: Tensor) -> Tensor:
    """A view of a parameter, contiguous if it is the weight of a convolution in channels_last."""
    return parameter.permute(0, 2, 3, 1) if parameter.dim() == 4 else parameter


def _multiply(x: Tensor, dimension: int, matrix: Tensor) -> Tensor:
    """Multiply a dimension of x (k, d_1, d_2, ...) by a matrix (k, d, d) from the right."""
    if dimension == x.dim() - 1:
        return (x.flatten(1, -2) @ matrix).view_as(x)
    return (matrix.mT[:, None] @ _columns(x, dimension)).view_as(x)


def _columns(x: Tensor, dimension: int) -> Tensor:
    """x (k, d_1, d_2, ...) as matrices whose rows belong to a dimension: (k, before, d, after)."""
    if dimension == x.dim() - 1:
        return x.flatten(1, -2).mT[:, None]
    return x.reshape(len(x), -1, x.shape[dimension], x.shape[dimension + 1 :].numel())
