"""Updates that see through VGG-19: their gradient against autograd's, what they gain, files."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from fastfcs import presets
from fastfcs.constraints import Photoreal
from fastfcs.losses import structure_loss
from fastfcs.network import UnrolledSolver, load_solver
from fastfcs.refinement import (
    RefinedSolver,
    Refinement,
    load_network,
    load_refinement,
    save_refinement,
)
from fastfcs.stylizer import Stylizer
from fastfcs.training.crops import targets
from fastfcs.training.objective import batch_loss
from fastfcs.vgg import STYLE_LAYERS, VGG19, load_vgg19


@pytest.fixture(scope="module")
def network() -> RefinedSolver:
    found = load_network(refine=True).requires_grad_(False)
    assert isinstance(found, RefinedSolver)
    return found


@pytest.fixture(scope="module")
def shipped(network: RefinedSolver) -> Refinement:
    return network.refinement


def photo(name: str, side: int) -> Tensor:
    image = torch.from_numpy(getattr(skimage.data, name)()).movedim(-1, 0)[None] / 255
    return F.interpolate(image, (side, side + 13), mode="bicubic", antialias=True).clamp(0, 1)


CONTENT, STYLE = photo("chelsea", 72), photo("coffee", 64)


def test_the_gradient_is_autograd_s(shipped: Refinement) -> None:
    double = load_refinement().double()
    image = photo("rocket", 43).double().requires_grad_()
    features, passed = double.features(image)
    assert [h.shape[1] for h in features] == [64, 128, 192, 256]
    assert all((h[:, -1] == 1).all() for h in features)
    generator = torch.Generator().manual_seed(0)
    corrections = [torch.randn(h.shape, generator=generator).to(h) for h in features]
    for correction in corrections:
        correction[:, -1] = 0  # of the constant
    (want,) = torch.autograd.grad(features, image, corrections)
    with torch.no_grad():
        found = double._gradient(corrections, passed)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


def test_updates_have_momentum_and_begin_where_the_network_stops(network: RefinedSolver) -> None:
    refinement, statistics = network.refinement, network.statistics(STYLE)
    with torch.no_grad():
        kept = refinement.features(CONTENT)[0][-1]
        own = {key: h for key, h in statistics.items() if key in network.solver.shapes}
        x = before = network.solver(CONTENT, own).clamp(0, 1)
        for t in range(refinement.updates):
            x = x.clamp(0, 1)
            g = refinement.update(t, x, kept, statistics)
            before, x = x, x - g + refinement.momentum[t] * (x - before)
    torch.testing.assert_close(network(CONTENT, statistics), x, rtol=0, atol=1e-4)
    assert (refinement.momentum > 0.1).all()


def test_vgg_is_in_it(shipped: Refinement) -> None:
    with torch.no_grad():
        want, found = load_vgg19()(CONTENT), shipped.vgg(CONTENT)
    for layer in STYLE_LAYERS:
        error = (found[layer] - want[layer]).norm() / want[layer].norm()
        assert error < 1e-3, layer


def test_components_are_those_that_vary_most() -> None:
    refinement, vgg = Refinement(1), load_vgg19()
    images = [photo(name, 64) for name in ("chelsea", "coffee", "rocket")]
    refinement.initialise(vgg, [torch.cat(images[:2]), images[2]])
    features = [refinement.features(image)[0] for image in (torch.cat(images[:2]), images[2])]
    for level, layer in enumerate(STYLE_LAYERS):
        found = [each[level].mean(0).flatten(1) for each in features]  # two batches count alike
        h = [each[level].double().flatten(2) for each in features]
        moment = sum((x @ x.mT / x.shape[-1]).mean(0) for x in h) / 2
        width = len(refinement.components[level].weight)
        own = moment[:width, :width]
        mean = moment[:width, -1]
        covariance = own - torch.outer(mean, mean)
        assert mean.abs().max() < 1e-3
        assert found[0].shape[0] == refinement.architecture["channels"][level]
        diagonal = covariance.diagonal()
        assert (covariance - diagonal.diag()).abs().max() < 1e-3 * diagonal.max(), layer
        torch.testing.assert_close(diagonal.mean(), torch.tensor(1.0).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("weights", ["universal", "tiny"])
def test_refined_pictures_are_nearer_to_style_and_content(weights: str) -> None:
    vgg, losses = load_vgg19(), []
    content, style = targets(vgg, CONTENT), targets(vgg, STYLE)
    for refine in (False, True):
        with torch.no_grad():
            result = Stylizer(STYLE, weights=weights, refine=refine)(CONTENT)
            losses.append(float(batch_loss(vgg, result, content, style, 20.0)[0]))
    assert losses[1] < 0.85 * losses[0], losses


def test_constraints_hold_after_every_update(network: RefinedSolver) -> None:
    content, style = photo("chelsea", 112), photo("coffee", 80)
    with torch.no_grad():
        statistics = network.statistics(style)
        artistic, photoreal = (
            network(content, statistics, each).clamp(0, 1) for each in (None, Photoreal(content))
        )
        kept = Stylizer(style, weights=network, constraint="keep-luminance")(content)
    assert structure_loss(photoreal, content) < 0.15 < structure_loss(artistic, content)
    assert (photoreal - content).abs().mean() > 0.03
    luminance = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    changes = [((x - content) * luminance).sum(1).abs().mean() for x in (kept, artistic)]
    assert changes[0] < 0.2 * changes[1]


def test_photographs_are_refused(network: RefinedSolver) -> None:
    for ask in (
        lambda: Stylizer(weights=network, constraint=["keep-colour", "photoreal"]),
        lambda: Stylizer(refine=True, constraint="photoreal"),
        lambda: setattr(Stylizer(weights=network), "constraint", "photoreal"),
    ):
        with pytest.raises(ValueError, match="refine is for paintings, not for constraint='photo"):
            ask()
    Stylizer(weights=network.solver, constraint="photoreal")


def test_nothing_is_asked_where_every_gram_matrix_is_the_style_s(shipped: Refinement) -> None:
    with torch.no_grad():
        statistics = shipped.statistics(CONTENT)
        kept = shipped.features(CONTENT)[0][-1]
        for t in range(shipped.updates):
            assert shipped.update(t, CONTENT, kept, statistics).abs().max() < 1e-3
            assert shipped.update(t, STYLE, kept[..., :8, :9], statistics).abs().mean() > 1e-3


def test_one_region_everywhere_is_no_region(shipped: Refinement) -> None:
    with torch.no_grad():
        kept = shipped.features(CONTENT)[0][-1]
        plain, masked = (
            shipped.update(0, CONTENT, kept, shipped.statistics(STYLE, of_style), of_content)
            for of_style, of_content in (
                (None, None),
                (torch.ones(1, *STYLE.shape[-2:]), torch.ones(1, *CONTENT.shape[-2:])),
            )
        )
    torch.testing.assert_close(masked, plain, rtol=0, atol=1e-4)


def test_each_region_takes_its_own_style(network: RefinedSolver) -> None:
    content, style = photo("chelsea", 96), photo("coffee", 80)
    height, width = content.shape[-2:]
    left = torch.zeros(height, width)
    left[:, : width // 2] = 1
    own = Stylizer(weights=network).set_style([style, content])
    with torch.no_grad():
        moved = (own(content, torch.stack([left, 1 - left])) - content).abs().mean((0, 1))
    assert moved[:, :40].mean() > 3 * moved[:, -40:].mean()  # on the right it has its style


def test_batches_are_their_pictures(shipped: Refinement) -> None:
    double = copy.deepcopy(shipped).double()
    both = torch.cat([CONTENT, CONTENT.flip(-1)]).double()
    with torch.no_grad():
        styles = double.statistics(torch.cat([STYLE, STYLE.flip(1)]).double())
        kept = double.features(both)[0][-1]
        found = double.update(1, both, kept, styles)
        for k in range(2):
            one = {key: h[k : k + 1] for key, h in styles.items()}
            want = double.update(1, both[k : k + 1], kept[k : k + 1], one)
            torch.testing.assert_close(found[k : k + 1], want, rtol=0, atol=1e-9)
    assert (found[0] - found[1].flip(-1)).abs().max() > 1e-3


def test_presets_and_pictures_are_blended(network: RefinedSolver) -> None:
    stylizer = Stylizer(STYLE, weights=network)
    want = {key: h.clone() for key, h in stylizer.statistics.get().items()}
    stylizer.set_style([STYLE, "the-scream"], blend=[0.5, 0.5])
    scream = Stylizer("the-scream", weights=network).statistics.get()
    for key, h in stylizer.statistics.get().items():
        torch.testing.assert_close(h, (want[key] + scream[key]) / 2)


def test_presets_hold_what_it_wants(network: RefinedSolver) -> None:
    assert len(presets.names()) >= 8
    for name in presets.names():
        assert set(Stylizer(name, weights=network).statistics.get()) == set(network.shapes)
        own = Stylizer(name, weights=network.solver).statistics.get()
        assert set(own) == set(network.solver.shapes)


def test_a_preset_without_it_is_refused(network: RefinedSolver, tmp_path: Path) -> None:
    old = {k: h for k, h in presets.read(presets.shipped()[0]).items() if k[0] != "v"}
    presets.write(old, tmp_path / "old.safetensors", {})
    Stylizer(tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match=r"old\.safetensors is not a preset of these weights"):
        Stylizer(tmp_path / "old.safetensors", weights=network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(shipped: Refinement, dtype: torch.dtype) -> None:
    half = copy.deepcopy(shipped).to(dtype)
    with torch.no_grad():
        want, found = (
            each.update(0, image, each.features(image)[0][-1], shipped.statistics(STYLE))
            for each, image in ((shipped, CONTENT), (half, CONTENT.to(dtype)))
        )
    assert found.dtype == dtype
    assert (found - want).norm() < 0.1 * want.norm()


def test_state(network: RefinedSolver) -> None:
    want, other = Stylizer(STYLE, weights=network), Stylizer(refine=True)
    other.load_state_dict(want.state_dict())
    with torch.inference_mode():
        assert torch.equal(other(CONTENT), want(CONTENT))


def test_is_differentiable_in_the_content() -> None:
    module = Stylizer(STYLE, refine=True).double()
    content = photo("chelsea", 32).double().mul(0.5).add(0.25).requires_grad_()
    weights = torch.randn(content.shape, generator=torch.Generator().manual_seed(0)).double()
    (g,) = torch.autograd.grad((module(content) * weights).sum(), content)
    with torch.no_grad():  # so short that no ReLU's gate, where updates jump, is passed
        step = 1e-9 * g / g.norm()
        change = ((module(content + step) - module(content - step)) * weights).sum()
    assert float(change) == pytest.approx(2e-9 * float(g.norm()), rel=1e-3)
    assert not any(p.requires_grad for p in module.parameters())


def test_files(tmp_path: Path) -> None:
    refinement = Refinement(1, channels=(8, 8, 8, 8))
    refinement.initialise(load_vgg19(), [CONTENT])
    path = tmp_path / "r.safetensors"
    save_refinement(refinement, path, {"licence": "MIT"})
    assert path.stat().st_size < 7e6  # VGG-19 in 8 bits
    found = load_refinement(path)
    for name, want in refinement.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], want, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.vgg.features[0].weight, refinement.vgg.features[0].weight)
    with torch.no_grad():
        for a, b in zip(found.features(STYLE)[0], refinement.features(STYLE)[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-2)

    tensors = load_file(path)
    tensors.pop("steps")
    save_file(tensors, path, {"architecture": "{}"})
    for bad in (path, tmp_path / "none.safetensors"):
        with pytest.raises(ValueError, match=r"safetensors does not hold a fastfcs refinement"):
            load_refinement(bad)


def test_loading_computes_nothing_on_the_meta_device() -> None:
    code = "import sys; from fastfcs.refinement import load_refinement; load_refinement(); "
    code += "assert 'torch._dynamo' not in sys.modules, 'a second and more'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_weights_than_8_bit_ones_are_kept_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    refinement = Refinement(1, channels=(8, 8, 8, 8))
    refinement.vgg = VGG19().requires_grad_(False)
    save_refinement(refinement, tmp_path / "r.safetensors", {})
    found = load_refinement(tmp_path / "r.safetensors")
    want = refinement.vgg.features[5].weight
    torch.testing.assert_close(found.vgg.features[5].weight, want, rtol=1e-3, atol=1e-5)


def test_networks_by_name_and_as_they_are() -> None:
    with pytest.raises(ValueError, match="refine belongs to weights by name or file"):
        Stylizer(weights=load_solver(), refine=True)
    network = load_network("tiny", refine=True)
    assert isinstance(network, RefinedSolver)
    assert network.updates == 4 + 8
    assert Stylizer(weights=network).solver is network
    assert isinstance(load_network("tiny"), UnrolledSolver)
