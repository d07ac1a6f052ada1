"""The photorealism constraint on rough updates of photographs."""

from collections.abc import Callable

import pytest
import torch
from reference import aggressive_update
from torch import Tensor

from fastfcs import LowPass, MattingLaplacian
from fastfcs.constraints import Photoreal, compose

Photo = Callable[[str, int], Tensor]


def test_photoreal_removes_what_is_not_photographic(photo: Photo, any_photo: str) -> None:
    content = photo(any_photo, 160)
    x = aggressive_update(content)
    laplacian = MattingLaplacian(content)
    result = Photoreal(content)(x)
    assert result.dtype == torch.float64
    before, after = laplacian.energy(x).item(), laplacian.energy(result).item()
    assert after < 1e-3 * before
    # The colours of the update stay: its mean, which no projection may touch.
    torch.testing.assert_close(result.mean((2, 3)), x.mean((2, 3)), atol=1e-4, rtol=0)
    # The lower the cutoff, the closer to the content's structure.
    energies = [laplacian.energy(Photoreal(content, cutoff)(x)).item() for cutoff in (0.1, 0.01)]
    assert after < energies[1] < energies[0]


def test_photoreal_is_the_filtered_change() -> None:
    content, x = torch.rand(2, 2, 3, 9, 12)
    change = LowPass(0.2, 20)(MattingLaplacian(content), x - content)
    torch.testing.assert_close(Photoreal(content, 0.2, 20)(x), content + change)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unchanged_content_comes_back(photo: Photo, dtype: torch.dtype) -> None:
    content = photo("chelsea", 64).to(dtype)
    assert torch.equal(Photoreal(content)(content), content)


def test_photoreal_is_differentiable() -> None:
    content = torch.rand(1, 3, 8, 8)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    Photoreal(content, 0.5)(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float64
    assert x.grad.abs().sum() > 0


def test_an_unchanged_content_has_the_gradient_of_the_identity() -> None:
    content = torch.rand(1, 3, 8, 8, requires_grad=True)
    weights = torch.rand(1, 3, 8, 8)
    (Photoreal(content)(content) * weights).sum().backward()
    torch.testing.assert_close(content.grad, weights)


def test_compose_applies_first_to_last() -> None:
    x = torch.tensor([2.0])
    assert compose([lambda y: y + 1, lambda y: y * 10])(x) == 30
    assert compose([])(x) is x
