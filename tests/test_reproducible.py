"""Results on a CPU do not depend on its number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pictures import load_photo
from torch import Tensor
from torch.nn import functional as F

from fastfcs import Stylizer
from fastfcs.reproducible import area_mean, convolve, enlarge, squared_norm


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def with_threads(call: Callable[[], Tensor]) -> list[Tensor]:
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(call())
    return results


FUNCTIONS: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {}
_X = torch.rand(1, 512, 24, 33, generator=torch.Generator().manual_seed(0)) - 0.5
_W = torch.rand(256, 512, 1, 1, generator=torch.Generator().manual_seed(1)) - 0.5
FUNCTIONS["convolve 1x1"] = lambda: convolve(_X, _W, None, 0), lambda: F.conv2d(_X, _W)
FUNCTIONS["convolve 3x3"] = (
    lambda: convolve(_X, _W.expand(256, 512, 3, 3), None, 1),
    lambda: F.conv2d(_X, _W.expand(256, 512, 3, 3), padding=1),
)
FUNCTIONS["enlarge"] = (
    lambda: enlarge(_X[:, :3], (50, 66)),
    lambda: F.interpolate(_X[:, :3], (50, 66), mode="bilinear", align_corners=False),
)
FUNCTIONS["area_mean"] = lambda: area_mean(_X), lambda: _X.mean((2, 3), keepdim=True)
FUNCTIONS["squared_norm"] = lambda: squared_norm(_X), lambda: _X.square().sum((1, 2, 3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_agree_with_torch_and_with_themselves(name: str) -> None:
    ours, of_torch = FUNCTIONS[name]
    first, *others = with_threads(ours)
    torch.testing.assert_close(first, of_torch(), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(first, other) for other in others)


def test_half_types_are_enlarged_too() -> None:
    small = _X[:, :3].half()
    assert enlarge(small, (48, 66)).dtype == torch.float16


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["photoreal", None])
def test_a_refined_picture_is_the_same_with_more_threads(constraint: str | None) -> None:
    content, style = (load_photo(name, 96).float() for name in ("chelsea", "coffee"))
    stylizer = Stylizer(style, weights="tiny", constraint=constraint, refine=True)
    with torch.inference_mode():
        first, *others = with_threads(lambda: stylizer(content))
    assert (first != content).any()
    assert all(torch.equal(first, other) for other in others)
