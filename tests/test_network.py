"""The unrolled solver: its fixed points, shapes, dtypes, compilation and files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastfcs import gram, network
from fastfcs.constraints import Photoreal
from fastfcs.losses import luma, region_grams
from fastfcs.network import UnrolledSolver
from fastfcs.ops import level_gradient
from fastfcs.statistics import Statistics
from fastfcs.weights import find_weights, load_solver, save_solver


@pytest.fixture
def solver() -> UnrolledSolver:
    torch.manual_seed(0)
    return UnrolledSolver(updates=2, channels=(8, 8, 8)).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 23), (19, 16)])
@pytest.mark.parametrize("levels", [3, 5])
def test_any_size(levels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    solver = UnrolledSolver(updates=2, channels=(8,) * levels)
    content = torch.rand(2, 3, *size)
    result = solver(content, solver.statistics(torch.rand(1, 3, 24, 37)))
    assert result.shape == content.shape
    assert torch.isfinite(result).all()
    assert (result - content).abs().max() > 1e-3


def test_matching_statistics_change_nothing(solver: UnrolledSolver) -> None:
    image = torch.rand(1, 3, 32, 40)
    torch.testing.assert_close(solver(image, solver.statistics(image)), image, atol=1e-5, rtol=0)


def test_level_one_holds_colour_mean_and_covariance(solver: UnrolledSolver) -> None:
    image = torch.rand(1, 3, 20, 24, dtype=torch.float64)
    matrix = solver.double().statistics(image).own[0][0]
    colour = 2 * image.flatten(2)[0] - 1
    torch.testing.assert_close(matrix[-4:-1, -1], colour.mean(1))
    torch.testing.assert_close(matrix[-4:-1, -4:-1], colour @ colour.T / colour.shape[1])
    assert matrix[-1, -1] == 1


def test_starts_where_it_is_told(solver: UnrolledSolver) -> None:
    started: list[Tensor] = []
    solver.update = lambda t, x, *_: started.append(x) or torch.zeros_like(x)  # type: ignore[method-assign]
    content, start = torch.rand(2, 2, 3, 20, 24)
    statistics = solver.statistics(content[:1])
    assert torch.equal(solver(content, statistics), content)
    assert torch.equal(solver(content, statistics, start=start), start)
    assert torch.equal(started[0], content)
    assert torch.equal(started[-1], start)


def bright(*shape: int) -> Tensor:
    """Noise without shadows, which `KeepShadows` would keep, and strokes, which are text."""
    return 0.1 * torch.rand(shape) + 0.6


@pytest.mark.parametrize("scale", [1, 1.25])
def test_photographs_start_from_the_mean_colour_of_each_style(
    solver: UnrolledSolver, scale: float
) -> None:
    """Tuned statistics, whose constant is no longer 1, give the same colours and chroma."""
    content, styles = bright(2, 3, 20, 24), torch.rand(2, 3, 17, 19) ** 3
    statistics = solver.statistics(styles).map(lambda h: scale * h)
    chroma = (styles - luma(styles)).square().sum(1).mean((1, 2)).sqrt()
    torch.testing.assert_close(statistics.chroma, chroma)
    start = Photoreal(content).start(statistics.colours)
    torch.testing.assert_close(start.mean((2, 3)), styles.mean((2, 3)))
    change = start - content
    torch.testing.assert_close(change, change.mean((2, 3), keepdim=True).expand_as(change))


def test_photographs_start_with_each_region_moved_to_its_own_style(solver: UnrolledSolver) -> None:
    content, styles = bright(1, 3, 20, 24), torch.rand(2, 3, 17, 19) ** 3
    masks = torch.zeros(2, 20, 24)
    masks[0, :8] = masks[1, 11:] = 1
    start = Photoreal(content, regions=masks).start(solver.statistics(styles).colours)
    torch.testing.assert_close(start[0, :, :8].mean((1, 2)), styles[0].mean((1, 2)))
    torch.testing.assert_close(start[0, :, 11:].mean((1, 2)), styles[1].mean((1, 2)))
    assert torch.equal(start[0, :, 8:11], content[0, :, 8:11])


def test_correction_is_the_gram_correction_times_a_rough_inverse() -> None:
    torch.manual_seed(0)
    h, other = torch.randn(2, 2, 5, 12, 13, dtype=torch.float64)
    target = gram(other**3)
    a = gram(h) + target
    a /= a.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
    series = sum(torch.linalg.matrix_power(torch.eye(5) - a, j) for j in range(8))
    scale = (gram(h) + target).diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
    want = (h.flatten(2).mT @ (gram(h) - target) @ series / scale).mT.reshape(h.shape)
    torch.testing.assert_close(correction(h, target), want)


def correction(h: Tensor, target: Tensor, masks: Tensor | None = None) -> Tensor:
    """h (G - H) Q, as the network computes it."""
    g = gram(h) if masks is None else region_grams(h, masks)
    return level_gradient(h, network._correction_weights(g, target))[:, :, 1:-1, 1:-1]


def cut_out(height: int, width: int) -> Tensor:
    """Alpha, (1, 1, H, W) float64: visible on the left, then translucent, then hidden."""
    ramp = torch.linspace(3, -2, width, dtype=torch.float64).clamp(0, 1)
    return ramp.expand(1, 1, height, width).clone()


def test_alpha_weights_the_statistics_and_not_the_correction() -> None:
    h, other = torch.randn(2, 2, 5, 12, 13, dtype=torch.float64)
    alpha, target = cut_out(12, 13), gram(other**3)
    n, weight = h.flatten(2).mT, alpha.flatten(2).mT  # n x c matrices, n x 1
    g = (weight * n).mT @ n / weight.sum()
    trace = (g + target).diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
    a = (g + target) / trace
    series = sum(torch.linalg.matrix_power(torch.eye(5) - a, j) for j in range(8))
    want = (n @ (g - target) @ series / trace).mT.reshape(h.shape)
    found = correction(h, target, alpha[:, 0])
    torch.testing.assert_close(found, want)
    assert found[..., -1].abs().min() > 0  # hidden pixels too

    mask = torch.rand(1, 12, 13, dtype=torch.float64)
    weights = network._correction_weights(region_grams(h[:1], mask * alpha[0]), target[:1])
    by_region = network._gradient_by_region(h[:1], weights, None, mask)
    g = (mask.flatten(1).mT * weight * n[:1]).mT @ n[:1] / (mask * alpha[0]).sum()
    trace = (g + target[:1]).diagonal(dim1=1, dim2=2).sum()
    a = (g + target[:1]) / trace
    series = sum(torch.linalg.matrix_power(torch.eye(5) - a, j) for j in range(8))
    want = (n[:1] @ (g - target[:1]) @ series / trace).mT.reshape(h[:1].shape)
    torch.testing.assert_close(by_region[:, :, 1:-1, 1:-1], mask * want)


def test_the_weighted_correction_is_differentiable() -> None:
    h, other = torch.randn(2, 1, 4, 6, 7, dtype=torch.float64)
    alpha, target = cut_out(6, 7)[:, 0], gram(other)
    assert torch.autograd.gradcheck(
        lambda h, target: correction(h, target, alpha),
        (h.requires_grad_(), target.requires_grad_()),
    )


def test_a_cut_out_has_the_statistics_of_its_visible_part(solver: UnrolledSolver) -> None:
    image = torch.rand(1, 3, 24, 32, dtype=torch.float64)
    alpha = torch.zeros(1, 24, 32, dtype=torch.float64)
    alpha[..., :16] = 0.5
    features, _ = solver.double().forward_maps(image)
    found = solver.statistics(image, alpha)
    for h, matrix in zip(features, found.own, strict=True):  # 16 / 4 pixels at the third level
        torch.testing.assert_close(matrix, gram(h[..., : h.shape[-1] // 2]))
    torch.testing.assert_close(found.colours, image[..., :16].mean((2, 3)))


def test_alpha_that_is_the_same_everywhere_changes_nothing(solver: UnrolledSolver) -> None:
    content, style = torch.rand(2, 2, 3, 24, 33)
    statistics = solver.statistics(style)
    want = solver(content, statistics)
    assert torch.equal(solver(content, statistics, alpha=torch.ones(1, 1, 24, 33)), want)
    half = solver(content, statistics, alpha=torch.full((2, 1, 24, 33), 0.5))
    torch.testing.assert_close(half, want, rtol=0, atol=1e-5)
    half = solver.statistics(style[:1], torch.full((1, 24, 33), 0.5))
    for name, h in half.named().items():
        torch.testing.assert_close(h, statistics.named()[name][:1], rtol=1e-5, atol=1e-6)


def test_each_picture_has_its_own_alpha(solver: UnrolledSolver) -> None:
    contents, style = torch.rand(2, 3, 24, 32), torch.rand(1, 3, 32, 32)
    alpha = torch.cat([cut_out(24, 32), cut_out(24, 32).flip(2, 3)]).float()
    statistics = solver.statistics(style)
    together = solver(contents, statistics, alpha=alpha)
    for k in range(2):
        alone = solver(contents[k : k + 1], statistics, alpha=alpha[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=1e-4)
    assert (solver(contents, statistics) - together).abs().max() > 1e-3


def test_regions_are_weighted_by_alpha(solver: UnrolledSolver) -> None:
    """A region of everything is none, and a region that alpha hides has nothing to correct."""
    content, styles = torch.rand(1, 3, 24, 32), torch.rand(2, 3, 32, 32)
    alpha = cut_out(24, 32).float()
    statistics = solver.statistics(styles[:1])
    everywhere = solver(content, statistics, regions=torch.ones(1, 24, 32), alpha=alpha)
    want = solver(content, statistics, alpha=alpha)
    torch.testing.assert_close(everywhere, want, rtol=0, atol=1e-5)
    hidden = (alpha[0] == 0).float()
    found = solver(
        content, solver.statistics(styles), regions=torch.cat([1 - hidden, hidden]), alpha=alpha
    )
    want = solver(content, statistics, regions=1 - hidden, alpha=alpha)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)


def test_photographs_start_from_the_visible_mean_colour() -> None:
    content, colours = bright(1, 3, 24, 32), torch.rand(2, 3)
    alpha = cut_out(24, 32).float()
    start = Photoreal(content).start(colours[:1], alpha)
    torch.testing.assert_close((alpha * start).sum((2, 3)) / alpha.sum(), colours[:1])
    masks = torch.zeros(2, 24, 32)
    masks[0, :12] = masks[1, 12:] = 1
    start = Photoreal(content, regions=masks).start(colours, alpha)
    for k, rows in enumerate((slice(12), slice(12, 24))):
        part = alpha[..., rows, :]
        mean = (part * start[..., rows, :]).sum((2, 3)) / part.sum()
        torch.testing.assert_close(mean[0], colours[k])
    masks[1] = alpha[0] == 0
    start = Photoreal(content, regions=masks).start(colours, alpha)
    assert torch.equal(start[..., 12:, :], content[..., 12:, :])  # nothing visible to be moved


@pytest.mark.parametrize("shape", [(24, 32), (1, 24, 32), (1, 1, 24, 16), (3, 1, 24, 32)])
def test_refuses_alpha_of_another_shape(solver: UnrolledSolver, shape: tuple[int, ...]) -> None:
    content = torch.rand(2, 3, 24, 32)
    with pytest.raises(
        ValueError, match=r"alpha must be \(1, 1, 24, 32\) or \(2, 1, 24, 32\), as the content"
    ):
        solver(content, solver.statistics(content), alpha=torch.ones(shape))


@pytest.mark.parametrize("residual", [0, 2])
def test_backward_maps_can_be_a_gradient(residual: int) -> None:
    """Mirrored weights give the gradient, through the forward maps, of <h, correction>."""
    torch.manual_seed(0)
    solver = UnrolledSolver(updates=1, channels=(8,), residual=(residual,)).double()
    solver.requires_grad_(False)
    (first, second, *_), (back, out) = solver.forward_maps[0], solver.backward_maps[0][0]
    back.weight.zero_()[:, :4] = second.weight.flip(2, 3).transpose(0, 1)  # learned channels
    out.weight.copy_(1e-6 * first.weight.flip(2, 3).transpose(0, 1))  # tanh is linear there
    image = torch.rand(1, 3, 16, 20, dtype=torch.float64, requires_grad=True)
    features, active = solver.forward_maps(image)
    correction = torch.randn_like(features[0])
    (features[0] * correction)[:, :4].sum().backward()
    padded = F.pad(correction, (1, 1, 1, 1), mode="replicate")
    g = solver.backward_maps[0](features, active, lambda *_: padded, solver.forward_maps)
    border = 3 + residual
    inside = slice(border, -border)  # at the border the padding's transpose differs
    got, want = g[..., inside, inside], image.grad[..., inside, inside]
    torch.testing.assert_close(got * 1e6 / 0.25, want / 2)  # features see 2 X - 1
    assert not features
    assert not active


def test_a_level_is_gated_by_its_own_activations(solver: UnrolledSolver) -> None:
    """Where h < 0, a fifth of the deeper level's g passes; here there is nothing else."""
    features, active = solver.double().forward_maps(torch.rand(1, 3, 16, 16).double())
    maps = solver.backward_maps[0]
    maps[0][0].weight.zero_()[:, :, 1, 1] = torch.eye(8)
    maps[0][1].weight *= 1e-2  # tanh is linear there

    def deepest(h: Tensor, level: int, g: Tensor | None) -> Tensor:
        if g is None:
            return torch.ones_like(F.pad(h, (1, 1, 1, 1)))
        return level_gradient(h, torch.zeros(1, 8, 8, dtype=h.dtype), g)

    def update(sign: float) -> Tensor:
        one = [sign * torch.ones_like(features[0]), *features[1:]]
        let = [torch.ones_like(active[0]), *active[1:]]
        return maps(one, let, deepest, solver.forward_maps)

    torch.testing.assert_close(update(-1), 0.2 * update(1), rtol=1e-6, atol=0)
    assert update(1).abs().max() > 0


def test_refuses_statistics_of_other_widths(solver: UnrolledSolver) -> None:
    image = torch.rand(1, 3, 16, 16)
    other = UnrolledSolver(updates=2, channels=(8, 8, 12)).statistics(image)
    with pytest.raises(ValueError, match="statistics must have the levels and channels"):
        solver(image, other)


def test_refuses_residual_convolutions_of_other_levels() -> None:
    with pytest.raises(ValueError, match=r"residual must be 2 numbers, one per level, got \[1\]"):
        UnrolledSolver(channels=(8, 8), residual=(1,))


def test_one_style_each_equals_one_by_one(solver: UnrolledSolver) -> None:
    contents, styles = torch.rand(3, 3, 24, 24), torch.rand(3, 3, 32, 32)
    together = solver(contents, solver.statistics(styles))
    for content, style, result in zip(contents, styles, together, strict=True):
        alone = solver(content[None], solver.statistics(style[None]))[0]
        torch.testing.assert_close(result, alone, atol=1e-5, rtol=1e-4)


def test_constraint_is_applied_after_every_update(solver: UnrolledSolver) -> None:
    seen: list[Tensor] = []

    def constraint(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.full_like(x, 0.25)

    content, style = torch.rand(2, 1, 3, 16, 16)
    result = solver(content, solver.statistics(style), constraint)
    assert len(seen) == 2
    assert (result == 0.25).all()


def test_bfloat16_autocast_and_channels_last(solver: UnrolledSolver) -> None:
    content, style = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    exact = solver(content, solver.statistics(style))
    last = content.to(memory_format=torch.channels_last)
    torch.testing.assert_close(solver(last, solver.statistics(style)), exact, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = solver(content, solver.statistics(style))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05


@pytest.mark.slow
def test_compiles_to_the_same(solver: UnrolledSolver) -> None:
    content, statistics = torch.rand(1, 3, 32, 48), solver.statistics(torch.rand(1, 3, 32, 32))
    compiled = torch.compile(solver, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(content, statistics), solver(content, statistics))


def test_every_parameter_learns(solver: UnrolledSolver) -> None:
    solver.requires_grad_()
    result = solver(torch.rand(1, 3, 32, 32), solver.statistics(torch.rand(1, 3, 32, 32)))
    result.square().mean().backward()
    for name, parameter in solver.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 15, 32)])
def test_refuses_what_is_no_image(solver: UnrolledSolver, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"style must be \(B, 3, H, W\) with H and W at least 16"):
        solver.statistics(torch.rand(shape))
    with pytest.raises(ValueError, match="content must be"):
        solver(torch.rand(shape), Statistics(()))


def test_refuses_statistics_of_another_network(solver: UnrolledSolver) -> None:
    other = UnrolledSolver(updates=2, channels=(8, 8))
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="statistics must have the levels and channels"):
        solver(image, other.statistics(image))


def test_file_round_trip(solver: UnrolledSolver, tmp_path) -> None:
    """Weights are written in half precision: those that have it come back as they were."""
    path = tmp_path / "weights.safetensors"
    solver.half().float()
    save_solver(solver, path, {"licence": "MIT"})
    content, style = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24)
    loaded = load_solver(path)
    assert not loaded.training
    assert torch.equal(
        loaded(content, loaded.statistics(style)), solver(content, solver.statistics(style))
    )
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_refuses_other_files(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"safetensors file or one of .*universal"):
        load_solver("no-such-weights")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="weights must be those of a fastfcs network"):
        load_solver(path)


SHIPPED = {"universal": 10e6, "small": 4e6, "tiny": 1e6}  # maximum bytes


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_name_their_origin(name: str) -> None:
    from safetensors import safe_open

    path = find_weights(name)
    assert path.stat().st_size <= SHIPPED[name]
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert {"architecture", "trained by", "data", "steps", "licence"} <= metadata.keys()


@pytest.mark.parametrize("residual", [None, (0, 0, 2, 1)])
def test_starts_with_living_channels_and_towards_the_style(photo, residual) -> None:
    content, style = photo("rocket", 64).float(), photo("coffee", 64).float()
    torch.manual_seed(0)
    solver = UnrolledSolver(updates=1, residual=residual)
    solver.initialise(content, style)
    statistics = solver.statistics(style)
    for level, h in enumerate(solver.forward_maps(content)[0]):
        learned = h[:, : -4 if level == 0 else -1]  # without the fixed channels
        std, mean = torch.std_mean(learned, (0, 2, 3))
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-3, rtol=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
    g = solver.update(0, content, statistics)
    assert g.square().mean().sqrt().item() == pytest.approx(0.03, rel=0.2)

    def distance(image: Tensor) -> float:
        pairs = zip(solver.statistics(image).own, statistics.own, strict=True)
        return sum(float((g - h).square().mean()) for g, h in pairs)

    with torch.no_grad():
        assert distance(content - g) < distance(content)
