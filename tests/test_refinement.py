"""Updates with VGG-19's features: their gradient against autograd's, and their gain."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pictures import LUMA, stretched_photo
from torch import Tensor
from torch.nn import functional as F

from fastfcs import presets
from fastfcs import refinement as refinement_module
from fastfcs.constraints import Photoreal
from fastfcs.constraints.photoreal import CUTOFF
from fastfcs.laplacian import MattingLaplacian
from fastfcs.losses import (
    gram_distance,
    region_grams,
    relative_content_loss,
    relative_style_loss,
    squared_norm,
    structure_loss,
)
from fastfcs.network import UnrolledSolver
from fastfcs.ops import gram
from fastfcs.refinement import RefinedSolver, Refinement
from fastfcs.statistics import Statistics
from fastfcs.stylizer import Stylizer
from fastfcs.training.data import targets
from fastfcs.training.objective import batch_loss
from fastfcs.vgg import CONTENT_LAYER, STYLE_LAYERS, load_vgg19
from fastfcs.weights import load_network, load_solver


@pytest.fixture(scope="module")
def network() -> RefinedSolver:
    found = load_network(refine=True).requires_grad_(False)
    assert isinstance(found, RefinedSolver)
    return found


@pytest.fixture(scope="module")
def refinement(network: RefinedSolver) -> Refinement:
    return network.refinement


CONTENT, STYLE = stretched_photo("chelsea", 72, 85), stretched_photo("coffee", 64, 77)
OTHER = stretched_photo("rocket", 72, 85)


def masks(count: int, like: Tensor, seed: int) -> Tensor:
    """Regions that share every pixel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *like.shape[-2:], generator=generator, dtype=torch.float64).add(0.1)


@pytest.mark.parametrize("regions", [0, 2])
def test_the_gradient_is_autograd_s_of_the_loss(regions: int) -> None:
    """The loss is a weighted sum of terms of `fastfcs.losses`."""
    double = Refinement().double()
    style, content = STYLE.double(), CONTENT.double()
    image = OTHER.double().requires_grad_()
    of_style, of_content = (
        masks(max(1, regions), picture, seed) for seed, picture in enumerate((style, content))
    )
    features, before, wanted = (double.maps(each) for each in (image, content, style))
    loss = refinement_module._CONTENT_WEIGHT * relative_content_loss(
        features[CONTENT_LAYER], before[CONTENT_LAYER]
    )
    ones = torch.ones_like(of_content), torch.ones_like(of_style)
    inside, of_wanted = (of_content, of_style) if regions else ones
    shares = inside.mean((1, 2)) / inside.mean((1, 2)).sum()
    for layer, weight in zip(STYLE_LAYERS, refinement_module._LEVEL_WEIGHTS, strict=True):
        g, unchanged = (region_grams(each[layer], inside) for each in (features, before))
        target = region_grams(wanted[layer], of_wanted)
        loss = loss + weight * shares @ relative_style_loss(g, target, unchanged)
    (want,) = torch.autograd.grad(loss, image)
    want = want * image[0, 0].numel() / 4
    statistics = double.statistics(style, of_style if regions else None)
    with torch.no_grad():
        goals = double.targets(content, statistics, of_content if regions else None)
        found = double.gradient(image, goals)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("regions", [0, 2])
def test_with_alpha_each_pixel_s_gradient_is_divided_by_its_own(regions: int) -> None:
    """At the features of one level: autograd's gradient of the loss weighted by alpha."""
    h, before, style = torch.randn(3, 1, 6, 9, 11, dtype=torch.float64)
    h.requires_grad_()
    alpha = masks(1, h, 5)[None]
    inside = masks(max(1, regions), h, 6) if regions else torch.ones_like(alpha[0])
    seen, target = inside * alpha[0], region_grams(style, masks(len(inside), h, 7))
    shares = seen.mean((1, 2)) / seen.mean((1, 2)).sum()
    g, unchanged = region_grams(h, seen), region_grams(before, seen)
    loss = shares @ relative_style_loss(g, target, unchanged)
    (want,) = torch.autograd.grad(loss, h)
    want = want * h[0, 0].numel() / 4 * alpha.mean() / alpha
    goals = refinement_module.Targets(
        content=before,
        content_norm=torch.ones(1),
        style=[target],
        norms=[squared_norm(target) + squared_norm(unchanged)],
        regions=inside if regions else None,
        alpha=alpha,
    )
    found = refinement_module._correction(h, 0, 1 / goals.norms[0], goals)
    torch.testing.assert_close(found, want)


def test_alpha_weights_the_content_and_the_norms(refinement: Refinement) -> None:
    alpha = torch.zeros(1, 1, 72, 85)
    alpha[..., :32, :40] = 0.5  # whole pixels at every level
    statistics = refinement.statistics(STYLE)
    with torch.no_grad():
        features = refinement.maps(CONTENT, STYLE_LAYERS)
        goals = refinement.targets(CONTENT, statistics, alpha=alpha)
    part = features[CONTENT_LAYER][..., :4, :5]
    share = part[0, 0].numel() / features[CONTENT_LAYER][0, 0].numel()
    torch.testing.assert_close(goals.content_norm, squared_norm(part) / share, rtol=0.05, atol=0)
    h, side = features[STYLE_LAYERS[0]], statistics.vgg[0]
    want = squared_norm(side) + squared_norm(gram(h[..., :32, :40]))
    torch.testing.assert_close(goals.norms[0], want)


def test_alpha_that_is_the_same_everywhere_changes_nothing(refinement: Refinement) -> None:
    statistics, alpha = refinement.statistics(STYLE), torch.full((1, 1, 72, 85), 0.5)
    regions = masks(2, CONTENT, 0).float()
    both = Statistics((), tuple(torch.cat([h, 2 * h]) for h in statistics.vgg))
    with torch.no_grad():
        for styles, of_content in ((statistics, None), (both, regions)):
            plain, found = (
                refinement.gradient(OTHER, refinement.targets(CONTENT, styles, of_content, a))
                for a in (None, alpha)
            )
            torch.testing.assert_close(found, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))


def test_the_direction_is_nearly_vgg_s(refinement: Refinement) -> None:
    """Tested on pictures that the maps were not fitted to."""
    gradients = []
    for each in (refinement, Refinement(load_vgg19())):
        with torch.no_grad():
            goals = each.targets(CONTENT, each.statistics(STYLE))
            gradients.append(each.gradient(CONTENT, goals).flatten())
    assert F.cosine_similarity(*gradients, dim=0) > 0.9


def test_updates_are_adam_s_and_begin_where_the_network_stops(network: RefinedSolver) -> None:
    """The gradient's low frequencies count twice, and its mean square is added under the root."""
    refinement = Refinement(network.refinement.maps, updates=6)
    network = RefinedSolver(network.solver, refinement)
    statistics = network.statistics(STYLE)
    beta, memory, step = 0.62, 0.9, 0.015
    with torch.no_grad():
        own = Statistics(statistics.own)
        goals = refinement.targets(CONTENT, statistics)
        x, gradients = network.solver(CONTENT, own), []
        for t in range(1, 7):
            x = x.clamp(0, 1)
            g = refinement.gradient(x, goals)
            coarse = F.interpolate(
                F.avg_pool2d(g, 4, ceil_mode=True, count_include_pad=False),
                g.shape[-2:],
                mode="bilinear",
            )
            gradients.append(g + coarse)
            ages = torch.arange(t - 1, -1, -1.0).view(-1, 1, 1, 1, 1)
            each = torch.stack(gradients)
            mean = (beta**ages * each).sum(0) / (beta**ages).sum()
            square = (memory**ages * each.square()).sum(0) / (memory**ages).sum()
            typical = gradients[-1].square().mean()
            x = x - step * mean / (square + typical).sqrt()
    torch.testing.assert_close(network(CONTENT, statistics), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("weights", ["universal", "tiny"])
def test_refined_pictures_are_closer_to_style_and_content(weights: str) -> None:
    vgg, losses = load_vgg19(), []
    content, style = targets(vgg, CONTENT), targets(vgg, STYLE)
    for refine in (False, True):
        with torch.no_grad():
            result = Stylizer(STYLE, weights=weights, refine=refine)(CONTENT)
            losses.append(float(batch_loss(vgg, result, content, style, 20.0)[0]))
    assert losses[1] < 0.85 * losses[0], losses


def test_constraints_hold_after_every_update(network: RefinedSolver) -> None:
    content, style = stretched_photo("chelsea", 112, 125), stretched_photo("coffee", 80, 93)
    with torch.no_grad():
        statistics = network.statistics(style)
        artistic, photoreal = (
            network(content, statistics, p).clamp(0, 1)
            for p in (None, Photoreal(content).projection)
        )
        kept = Stylizer(style, weights=network, constraint="keep-luminance")(content)
    assert structure_loss(photoreal, content) < 0.15 < structure_loss(artistic, content)
    assert (photoreal - content).abs().mean() > 0.03
    changes = [((x - content) * LUMA).sum(1).abs().mean() for x in (kept, artistic)]
    assert changes[0] < 0.2 * changes[1]


def test_a_refined_photograph_is_closer_to_the_style_and_keeps_its_structure() -> None:
    """The matting energy shows that its change is still smooth along the content."""
    content, style = stretched_photo("astronaut", 256, 320), stretched_photo("coffee", 256, 256)
    vgg, laplacian = load_vgg19(), MattingLaplacian(content)
    grams = {layer: gram(h) for layer, h in vgg(style).items()}
    distances, losses, energies = [], [], []
    for refine in (False, True):
        stylizer = Stylizer(style, refine=refine, constraint="photoreal")
        with torch.no_grad():
            x = stylizer(content)
        distances.append(gram_distance(vgg(x), grams).item())
        losses.append(structure_loss(x, content).item())
        energies.append(laplacian.energy(x).item())
    assert distances[1] < 0.93 * distances[0], distances
    assert losses[1] < 0.85 * losses[0], losses
    assert energies[1] < 3 * energies[0], energies


def test_the_cutoff_of_a_refined_photograph(network: RefinedSolver) -> None:
    content, style = stretched_photo("chelsea", 64, 80), stretched_photo("coffee", 64, 70)
    cutoffs: list[float | None] = [None, CUTOFF, 0.001, 5.0]
    default, same, narrow, wide = (
        Stylizer(style, weights=network, constraint="photoreal", cutoff=c)(content) for c in cutoffs
    )
    assert torch.equal(default, same)
    losses = [structure_loss(x, content) for x in (narrow, default, wide)]
    assert losses[0] < losses[1] < losses[2], losses


def test_photographs_are_refined_by_region_in_batches_and_with_other_constraints(
    network: RefinedSolver,
) -> None:
    contents = torch.cat([stretched_photo(name, 64, 80) for name in ("chelsea", "coffee")])
    styles = torch.cat([stretched_photo(name, 64, 80) for name in ("astronaut", "chelsea")])
    stylizer = Stylizer(weights=network, constraint="photoreal")
    one_by_one = [stylizer.set_style(s)(c) for c, s in zip(contents, styles, strict=True)]
    both = stylizer.set_style(styles)(contents)
    # Ten updates amplify roundings, which depend on the batch.
    torch.testing.assert_close(both, torch.stack(one_by_one), rtol=0, atol=2e-2)
    assert (both - torch.stack(one_by_one)).abs().mean() < 5e-4

    masks = torch.zeros(2, 64, 80)
    masks[0, :, :40] = masks[1, :, 40:] = 1
    halves = stylizer(contents[0], masks)
    near = [(halves - x).abs()[..., :20].mean() for x in (one_by_one[0], contents[0])]
    assert near[0] < near[1]

    stylizer.constraint = ["photoreal", "keep-luminance"]
    grey = stylizer.set_style(styles[0])(contents[0])
    assert ((grey - contents[0]) * LUMA).sum(0).abs().mean() < 0.01
    assert (grey - contents[0]).abs().mean() > 0.02


def test_a_long_photograph_is_refined() -> None:
    content, style = torch.rand(3, 16, 800), stretched_photo("coffee", 64, 64)
    stylizer = Stylizer(style, weights="tiny", refine=True, constraint="photoreal")
    assert stylizer(content).shape == content.shape


def test_the_constraint_object_of_one_size_cannot_be_refined(network: RefinedSolver) -> None:
    photoreal = Photoreal(CONTENT)
    for ask in (
        lambda: Stylizer(weights=network, constraint=["keep-colour", photoreal]),
        lambda: Stylizer(refine=True, constraint=photoreal),
        lambda: setattr(Stylizer(weights=network), "constraint", photoreal),
    ):
        with pytest.raises(ValueError, match="refine must be False with a Photoreal object"):
            ask()


def test_the_gradient_vanishes_at_the_style_itself(refinement: Refinement) -> None:
    with torch.no_grad():
        goals = refinement.targets(CONTENT, refinement.statistics(CONTENT))
        found, other = (refinement.gradient(x, goals).norm() for x in (CONTENT, CONTENT.flip(1)))
    assert found < 1e-4 * other


def test_a_flat_picture_stays_finite(refinement: Refinement) -> None:
    flat = torch.full((1, 3, 24, 24), 0.5)
    with torch.no_grad():
        found = refinement(flat, flat, refinement.statistics(flat))
    torch.testing.assert_close(found, flat, rtol=0, atol=0.2)


def test_one_region_everywhere_is_no_region(refinement: Refinement) -> None:
    with torch.no_grad():
        plain, masked = (
            refinement.gradient(
                STYLE,
                refinement.targets(STYLE, refinement.statistics(CONTENT, of_style), of_content),
            )
            for of_style, of_content in (
                (None, None),
                (torch.ones(1, *CONTENT.shape[-2:]), torch.ones(1, *STYLE.shape[-2:])),
            )
        )
    torch.testing.assert_close(masked, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_each_region_takes_its_own_style(network: RefinedSolver) -> None:
    content, style = stretched_photo("chelsea", 96, 109), stretched_photo("coffee", 80, 93)
    height, width = content.shape[-2:]
    left = torch.zeros(height, width)
    left[:, : width // 2] = 1
    own = Stylizer(weights=network).set_style([style, content])
    with torch.no_grad():
        moved = (own(content, torch.stack([left, 1 - left])) - content).abs().mean((0, 1))
    assert moved[:, :40].mean() > 2.5 * moved[:, -40:].mean()  # on the right it has its style


def test_batches_are_their_pictures(refinement: Refinement) -> None:
    double = copy.deepcopy(refinement).double()
    double.updates = 2
    both = torch.cat([CONTENT, CONTENT.flip(-1)]).double()
    with torch.no_grad():
        styles = double.statistics(torch.cat([STYLE, STYLE.flip(1)]).double())
        found = double(both, both, styles)
        for k in range(2):
            style = Statistics((), tuple(h[k : k + 1] for h in styles.vgg))
            want = double(both[k : k + 1], both[k : k + 1], style)
            torch.testing.assert_close(found[k : k + 1], want, rtol=0, atol=1e-9)
    assert (found[0] - found[1].flip(-1)).abs().max() > 1e-3


def test_presets_and_pictures_are_blended(network: RefinedSolver) -> None:
    stylizer = Stylizer(STYLE, weights=network)
    want = stylizer.statistics.get()[0].named()
    stylizer.set_style([STYLE, "the-scream"], blend=[0.5, 0.5])
    scream = Stylizer("the-scream", weights=network).statistics.get()[0].named()
    for key, h in stylizer.statistics.get()[0].named().items():
        torch.testing.assert_close(h, (want[key] + scream[key]) / 2)


def test_presets_hold_the_statistics_of_the_refinement(network: RefinedSolver) -> None:
    assert len(presets.names()) >= 8
    for name in presets.names():
        for scale in Stylizer(name, weights=network).statistics.get():
            assert scale.widths == network.widths
        for scale in Stylizer(name, weights=network.solver).statistics.get():
            assert scale.widths == network.solver.widths


def test_a_preset_without_them_raises(network: RefinedSolver, tmp_path: Path) -> None:
    old = [Statistics(scale.own) for scale in presets.read(presets.shipped()[0])]
    presets.write(old, tmp_path / "old.safetensors", {})
    Stylizer(tmp_path / "old.safetensors")
    with pytest.raises(
        ValueError, match=r"style must be a preset of these weights, got .*old\.safetensors"
    ):
        Stylizer(tmp_path / "old.safetensors", weights=network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(refinement: Refinement, native_half: None, dtype: torch.dtype) -> None:
    half = copy.deepcopy(refinement).to(dtype)
    statistics = refinement.statistics(STYLE)
    with torch.no_grad():
        want = refinement.gradient(CONTENT, refinement.targets(CONTENT, statistics))
        found = half.gradient(CONTENT.to(dtype), half.targets(CONTENT.to(dtype), statistics))
        result = half(CONTENT.to(dtype), CONTENT.to(dtype), statistics)
    assert found.dtype == result.dtype == dtype
    assert result.isfinite().all()
    assert (found - want).norm() < 0.1 * want.norm()


def test_state(network: RefinedSolver) -> None:
    want, other = Stylizer(STYLE, weights=network), Stylizer(refine=True)
    other.load_state_dict(want.state_dict())
    with torch.inference_mode():
        assert torch.equal(other(CONTENT), want(CONTENT))


def test_is_differentiable_in_the_content() -> None:
    module = Stylizer(STYLE, refine=True).double()
    content = stretched_photo("chelsea", 32, 45).double().mul(0.5).add(0.25).requires_grad_()
    weights = torch.randn(content.shape, generator=torch.Generator().manual_seed(0)).double()
    (g,) = torch.autograd.grad((module(content) * weights).sum(), content)
    with torch.no_grad():  # so short that no ReLU's gate, where updates jump, is passed
        step = 1e-9 * g / g.norm()
        change = ((module(content + step) - module(content - step)) * weights).sum()
    assert float(change) == pytest.approx(2e-9 * float(g.norm()), rel=1e-3)
    assert not any(p.requires_grad for p in module.parameters())


def test_loading_computes_nothing_on_the_meta_device() -> None:
    code = "import sys; from fastfcs.weights import load_network; load_network(refine=True); "
    code += "assert 'torch._dynamo' not in sys.modules, 'a second and more'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_networks_by_name_and_as_they_are() -> None:
    with pytest.raises(ValueError, match="refine must be None or False if weights is a network"):
        Stylizer(weights=load_solver(), refine=True)
    network = load_network("tiny", refine=True)
    assert isinstance(network, RefinedSolver)
    assert [network.updates_at((side, side)) for side in (64, 128, 256, 512)] == [14, 14, 9, 5]
    assert Stylizer(weights=network).solver is network
    assert isinstance(load_network("tiny"), UnrolledSolver)


def test_photographs_are_refined_by_default() -> None:
    refined = {"photoreal": True, "keep-colour": False, None: False}
    for constraint, want in refined.items():
        solver = Stylizer(weights="tiny", constraint=constraint).solver
        assert isinstance(solver, RefinedSolver) is want
    assert isinstance(
        Stylizer(weights="tiny", constraint=Photoreal(CONTENT)).solver, UnrolledSolver
    )
    stylizer = Stylizer(weights="tiny", constraint="photoreal", refine=False)
    assert isinstance(stylizer.solver, UnrolledSolver)


def test_the_border_of_a_photograph_is_no_edge() -> None:
    """Features see a mirror image beyond it, and not zeros."""
    content = torch.full((1, 3, 64, 96), 0.6)
    content[..., 48:] = 0.4
    style = stretched_photo("coffee", 64, 96)
    refinement = Refinement(updates=1)
    statistics = refinement.statistics(style)
    moved = []
    for rim in (0, 8):
        with torch.no_grad():
            x = refinement(content, content, statistics, step=0.1, rim=rim)
        change = (x - content)[..., 4:40]  # it is even, but for the upper and the lower border
        moved.append(
            (change[..., :2, :] - change[..., 28:36, :].mean(2, keepdim=True)).abs().mean()
        )
    assert moved[1] < 0.5 * moved[0], moved


def test_a_stylizer_tells_its_work() -> None:
    pixels = 50 * 128 + 100 * 256 + 200 * 512
    assert Stylizer(weights="tiny").work(200, 512) == 4 * pixels
    photoreal = Stylizer(weights="tiny", constraint="photoreal").work(200, 512)
    small = (150 + 2 * refinement_module._PHOTO_RIM) * (384 + 2 * refinement_module._PHOTO_RIM)
    assert photoreal == 4 * 200 * 512 + (1 + refinement_module._PHOTO_UPDATES) * small
