"""SOAP (Vyas et al., arXiv:2409.11321): Adam in the eigenbases of Shampoo's preconditioners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

_BETA1, _BETA2, _EPS = 0.9, 0.95, 1e-8


class SOAP:
    """Parameters of the same shape are handled together, so that a step is a few hundred kernels.

    A weight is preconditioned along each of its dimensions; a bias is not, as in Adam. The first
    step measures and changes nothing.

    Args:
        parameters: float32. One that has no gradient has a gradient of 0.
        refresh: steps from one update of the eigenbases to the next.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], refresh: int = 10) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            shapes[parameter.shape].append(parameter)
        self._stacks = [_Stack(alike) for alike in shapes.values()]
        self._refresh = refresh
        self.steps = 0

    @property
    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs beside the number of steps; copy into these to resume."""
        return {
            f"{k}.{name}": tensor
            for k, stack in enumerate(self._stacks)
            for name, tensor in stack.state.items()
        }

    def zero_grad(self) -> None:
        for stack in self._stacks:
            for parameter in stack.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the parameters by their gradients."""
        if self.steps:
            lr *= sqrt(1 - _BETA2**self.steps) / (1 - _BETA1**self.steps)
        for stack in self._stacks:
            gradient = stack.gradient()
            if self.steps:
                stack.move(gradient, lr)
            stack.measure(gradient)
        if self.steps == 0:
            self._start()
        elif self.steps % self._refresh == 0:
            self._turn()
        self.steps += 1

    def _start(self) -> None:
        for stack in self._stacks:
            for moment, basis in zip(stack.moments, stack.bases, strict=True):
                basis.copy_(torch.linalg.eigh(moment).eigenvectors.flip(-1))

    def _turn(self) -> None:
        """A step of power iteration: matrices of one size, whosever they are, in one QR."""
        products: dict[int, list[Tensor]] = defaultdict(list)
        places: dict[int, list[Tensor]] = defaultdict(list)
        for stack in self._stacks:
            for dimension, (moment, basis) in enumerate(
                zip(stack.moments, stack.bases, strict=True), start=1
            ):
                product = moment @ basis
                order = (basis * product).sum(-2).argsort(dim=-1, descending=True)
                stack.reorder(dimension, order)
                size = order.shape[-1]
                products[size].append(product.take_along_dim(order[:, None], 2))
                places[size].append(basis)
        for size, found in products.items():
            turned = torch.linalg.qr(torch.cat(found)).Q
            for basis, q in zip(places[size], turned.split([len(b) for b in found]), strict=True):
                basis.copy_(q)


class _Stack:
    """Parameters of one shape and their state, (k, d_1, d_2, ...), k being how many there are."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        shape, like = parameters[0].shape, parameters[0].detach()
        self._shape = (len(parameters), *shape)
        square = [(len(parameters), d, d) for d in (shape if len(shape) > 1 else ())]
        self.mean, self.variance = like.new_zeros(self._shape), like.new_zeros(self._shape)
        self.moments = [like.new_zeros(s) for s in square]
        self.bases = [like.new_zeros(s) for s in square]

    @property
    def state(self) -> dict[str, Tensor]:
        found = {"mean": self.mean, "variance": self.variance}
        for k, (moment, basis) in enumerate(zip(self.moments, self.bases, strict=True)):
            found |= {f"moment {k}": moment, f"basis {k}": basis}
        return found

    def gradient(self) -> Tensor:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.stack([g.contiguous() for g in gradients])

    def move(self, gradient: Tensor, lr: float) -> None:
        """Adam's step of that rate, in the eigenbases."""
        self.mean.lerp_(gradient, 1 - _BETA1)
        turned = self._turned(gradient, self.bases)
        self.variance.mul_(_BETA2).addcmul_(turned, turned, value=1 - _BETA2)
        step = self._turned(self.mean, self.bases) / self.variance.sqrt().add_(_EPS)
        step = self._turned(step, [basis.mT for basis in self.bases])
        torch._foreach_add_(list(self.parameters), list(step.unbind()), alpha=-lr)

    def measure(self, gradient: Tensor) -> None:
        """Update the moments, gradients times themselves along each dimension."""
        for moment in self.moments:
            x = gradient.reshape(*moment.shape[:2], -1)
            moment.baddbmm_(x, x.mT, beta=_BETA2, alpha=1 - _BETA2)
            gradient = x.mT

    def reorder(self, dimension: int, order: Tensor) -> None:
        """The variances in another order of the basis (k, d) of a dimension."""
        index = order.view([n if d in (0, dimension) else 1 for d, n in enumerate(self._shape)])
        self.variance.copy_(self.variance.take_along_dim(index, dimension))

    def _turned(self, x: Tensor, bases: Sequence[Tensor]) -> Tensor:
        """Along every dimension by its basis; each product puts the first dimension last."""
        for basis in bases:
            x = x.reshape(*basis.shape[:2], -1).mT @ basis
        return x.reshape(self._shape)
