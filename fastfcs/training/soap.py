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


class _Stack:
    """The k parameters of one shape and their state, tensors (k, d_1, d_2, ...)."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        shape, like = parameters[0].shape, parameters[0].detach()
        self._shape = (len(parameters), *shape)
        square = [(len(parameters), d, d) for d in (shape if len(shape) > 1 else ())]
        self.mean, self.variance = like.new_zeros(self._shape), like.new_zeros(self._shape)
        self.moments = [like.new_zeros(s) for s in square]
        self.bases = [like.new_zeros(s) for s in square]

    def tensors(self) -> dict[str, Tensor]:
        state = {"mean": self.mean, "variance": self.variance}
        for k, (moment, basis) in enumerate(zip(self.moments, self.bases, strict=True)):
            state |= {f"moment {k}": moment, f"basis {k}": basis}
        return state

    def gradient(self) -> Tensor:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.stack([g.contiguous() for g in gradients])

    def update(self, gradient: Tensor, lr: float) -> None:
        """Take a step of Adam in the eigenbases."""
        self.mean.lerp_(gradient, 1 - _BETA1)
        rotated = self._rotate(gradient, self.bases)
        self.variance.mul_(_BETA2).addcmul_(rotated, rotated, value=1 - _BETA2)
        step = self._rotate(self.mean, self.bases) / self.variance.sqrt().add_(_EPS)
        step = self._rotate(step, [basis.mT for basis in self.bases])
        torch._foreach_add_(list(self.parameters), list(step.unbind()), alpha=-lr)

    def accumulate(self, gradient: Tensor) -> None:
        """Update the second moments of the gradient along each dimension."""
        for moment in self.moments:
            x = gradient.reshape(*moment.shape[:2], -1)
            moment.baddbmm_(x, x.mT, beta=_BETA2, alpha=1 - _BETA2)
            gradient = x.mT

    def reorder(self, dimension: int, order: Tensor) -> None:
        """Permute the variances as the basis (k, d, d) of a dimension is permuted."""
        index = order.view([n if d in (0, dimension) else 1 for d, n in enumerate(self._shape)])
        self.variance.copy_(self.variance.take_along_dim(index, dimension))

    def _rotate(self, x: Tensor, bases: Sequence[Tensor]) -> Tensor:
        """Multiply every dimension by its basis; each product moves the first dimension last."""
        for basis in bases:
            x = x.reshape(*basis.shape[:2], -1).mT @ basis
        return x.reshape(self._shape)
