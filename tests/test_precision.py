"""The network in half types: which are chosen, and how far their results are from float32's."""

from __future__ import annotations

import pytest
import torch
from pictures import load_photo
from torch import Tensor

from fastfcs import Stylizer, precision
from fastfcs.network import UnrolledSolver
from fastfcs.precision import (
    Arithmetic,
    PaintingPrecision,
    PhotoPrecision,
    Precision,
    choose,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FULL, HALF = torch.float32, torch.bfloat16


@pytest.fixture
def fast_half(monkeypatch: pytest.MonkeyPatch, native_half: None) -> None:
    """Pretend that the processor is fast in bfloat16."""
    monkeypatch.setattr(precision, "_FAST_BFLOAT16", True)


def grey_levels(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The mean difference of two images and the 99.9th percentile, in 8 bits."""
    difference = 255 * (a.double() - b.double()).abs().flatten()
    return float(difference.mean()), float(difference.quantile(0.999))


def test_auto_is_half_where_that_is_as_good(fast_half: None) -> None:
    def auto(device: torch.device, *, photoreal: bool, measured: bool = True) -> Precision | None:
        return choose("auto", device, photoreal=photoreal, measured=measured)

    assert auto(CPU, photoreal=True) == PhotoPrecision(HALF)
    assert auto(CPU, photoreal=False) == PaintingPrecision(HALF)
    assert auto(CUDA, photoreal=True) == PhotoPrecision(torch.float16)
    assert auto(CPU, photoreal=True, measured=False) is None
    assert choose("float32", CPU, photoreal=True, measured=False) == Precision(FULL)


def test_auto_is_the_parameters_dtype_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_FAST_BFLOAT16", False)
    assert choose("auto", CPU, photoreal=True, measured=True) is None
    assert choose("bfloat16", CPU, photoreal=True, measured=True) == Precision(HALF)


def test_paintings_are_exact_until_few_updates_follow() -> None:
    exact, tiles, half = Arithmetic(FULL), Arithmetic(FULL, exact=False), Arithmetic(HALF)
    auto = PaintingPrecision(HALF)
    assert [auto.of_features(t, 4) for t in range(4)] == [exact, exact, tiles, tiles]
    assert [auto.of_gradients(t, 4) for t in range(4)] == [exact, tiles, tiles, half]


def test_photographs_start_with_features_in_float32() -> None:
    full, half = Arithmetic(FULL, exact=False), Arithmetic(HALF)
    auto = PhotoPrecision(HALF)
    assert [auto.of_features(t, 4) for t in range(4)] == [full, full, half, half]
    assert auto.of_gradients(0, 4) == half
    assert PhotoPrecision(torch.float16).of_features(0, 4) == Arithmetic(torch.float16)


@pytest.mark.parametrize("weights", ["universal", "tiny"])
@pytest.mark.parametrize("constraint", [None, "photoreal"])
def test_auto_is_as_close_to_float32_as_promised(
    fast_half: None, weights: str, constraint: str | None
) -> None:
    content, style = load_photo("astronaut", 192).float(), load_photo("coffee", 192).float()
    stylizer = Stylizer(style, weights=weights, constraint=constraint, precision="float32")
    exact = stylizer(content)
    stylizer.precision = "auto"
    mean, percentile = grey_levels(stylizer(content), exact)
    assert 0 < mean <= 0.5
    assert percentile <= 3


def test_features_are_in_the_chosen_dtype_and_gram_matrices_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.dtype] = []
    from fastfcs import network

    def gram(h: Tensor) -> Tensor:
        result: Tensor = original(h)
        seen.extend([h.dtype, result.dtype])
        return result

    original = network.gram
    monkeypatch.setattr(network, "gram", gram)
    content = load_photo("astronaut", 64).float()
    result = Stylizer(content, weights="tiny", precision="bfloat16")(content)
    assert result.dtype == FULL
    assert seen[:8] == [FULL] * 8  # of the style
    assert seen[8:] == [HALF, FULL] * 16


def test_autocast_selects_the_dtype_of_features_and_leaves_the_constraint_alone() -> None:
    solver = UnrolledSolver(updates=1, channels=(8, 8))
    content = load_photo("astronaut", 32).float()
    statistics = solver.statistics(content.flip(1))
    seen = []

    def constraint(x: Tensor) -> Tensor:
        seen.append((x.dtype, (x[0, 0] @ x[0, 0]).dtype))
        return x

    with torch.autocast("cpu", HALF):
        features, _ = solver.forward_maps(content)
        solver(content, statistics, constraint)
    assert {h.dtype for h in features} == {HALF}
    assert seen == [(FULL, FULL)]


def test_half_parameters_still_work_and_float32_overrides_them() -> None:
    content = load_photo("astronaut", 64).float()
    stylizer = Stylizer(content.flip(1), weights="tiny", constraint="photoreal").bfloat16()
    exact = Stylizer(content.flip(1), weights="tiny", constraint="photoreal", precision="float32")
    stylizer.precision = "float32"
    mean, _ = grey_levels(stylizer(content), exact(content))
    assert 0 < mean < 2


def test_an_unknown_precision_is_an_error() -> None:
    message = "precision must be one of 'auto', 'float32', 'bfloat16', 'float16', got 'half'"
    with pytest.raises(ValueError, match=message):
        Stylizer(precision="half")
