"""The iterative solvers: their losses, and that they lower them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import load_photo
from PIL import Image
from torch import Tensor

from fastfcs import MattingLaplacian
from fastfcs.cli import cli
from fastfcs.constraints import Photoreal
from fastfcs.losses import gradient_ssim, region_grams, structure_loss
from fastfcs.solvers import solve
from fastfcs.solvers.objective import Objective
from fastfcs.training.data import Crop
from fastfcs.training.objective import batch_loss
from fastfcs.vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19

SIZE = 48
WEIGHTS = {"content": 1.0, "style": 20.0, "matting": 0.0, "structure": 0.0}
LAYERS = ({CONTENT_LAYER: 1.0}, dict.fromkeys(STYLE_LAYERS, 1.0))


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    return load_photo("astronaut", SIZE).float(), load_photo("coffee", SIZE).float()


def losses_of(vgg: VGG19, pair: tuple[Tensor, Tensor], **options) -> tuple[Tensor, list[dict]]:
    found: list[dict] = []
    result = solve(*pair, vgg=vgg, callback=lambda k, x, losses: found.append(losses), **options)
    return result, found


def test_the_loss_is_the_one_of_training(vgg, pair) -> None:
    content, style = pair
    image = (content + 0.1 * torch.randn_like(content)).clamp(0, 1)

    def crop(x: Tensor) -> Crop:
        found = vgg(x)
        one = torch.ones(1, *x.shape[-2:])
        grams = {k: region_grams(found[k], one)[0] for k in STYLE_LAYERS}
        return Crop(x[0], found[CONTENT_LAYER][0], grams)

    with torch.no_grad():
        total, parts = batch_loss(vgg, image, [crop(content)], [crop(style)], 20.0)
        ours = Objective(vgg, content, style, WEIGHTS, *LAYERS)(image)
    assert ours["total"].item() == pytest.approx(total.item(), rel=1e-5)
    assert ours["content"].item() == pytest.approx(parts["content"].item(), rel=1e-5)


def test_region_grams_are_the_formula() -> None:
    torch.manual_seed(0)
    f = torch.rand(1, 5, 4, 6, dtype=torch.float64)
    masks = torch.rand(3, 4, 6, dtype=torch.float64)
    flat = f[0].flatten(1)
    for r, found in enumerate(region_grams(f, masks)):
        m = masks[r].flatten()
        torch.testing.assert_close(found, flat @ torch.diag(m) @ flat.T / m.sum())
    blocks = torch.zeros(1, 8, 12, dtype=torch.float64)
    blocks[0, :4] = 1  # the upper half, at twice the resolution
    upper = f[0, :, :2].flatten(1)
    torch.testing.assert_close(region_grams(f, blocks)[0], upper @ upper.T / 12)


def test_a_region_of_the_whole_image_changes_nothing(vgg, pair) -> None:
    everywhere = tuple(torch.ones(x.shape[1:])[:1] for x in pair)
    plain, masked = (
        losses_of(vgg, pair, steps=2, method="adam", regions=regions)
        for regions in (None, everywhere)
    )
    torch.testing.assert_close(plain[0], masked[0])


def test_regions_take_their_own_styles(vgg) -> None:
    """Left takes the left half's colour, right the right half's; without masks both mix."""
    torch.manual_seed(0)
    content = 0.5 + 0.05 * torch.randn(1, 3, SIZE, SIZE)
    style = 0.05 * torch.randn(1, 3, SIZE, SIZE) + torch.tensor([0.5, 0.5, 0.5]).view(3, 1, 1)
    left = torch.zeros(1, SIZE, SIZE)
    left[..., : SIZE // 2] = 1
    style[:, 0] += 0.3 * (2 * left - 1)  # red on the left, not on the right
    masks = torch.cat([left, 1 - left])
    result = solve(
        content.clamp(0, 1), style.clamp(0, 1), vgg=vgg, steps=20, regions=(masks, masks)
    )
    red = result[0, 0]
    assert red[:, : SIZE // 2].mean() > red[:, SIZE // 2 :].mean() + 0.2


def test_matting_gradient_is_2_l_x(vgg, pair) -> None:
    content, style = pair
    weights = {"content": 0.0, "style": 0.0, "matting": 2.0, "structure": 0.0}
    image = (content + 0.1 * torch.randn_like(content)).requires_grad_()
    Objective(vgg, content, style, weights, *LAYERS)(image)["total"].backward()
    expected = 2 * 2 * (MattingLaplacian(content) @ image.detach()) / image.numel()
    torch.testing.assert_close(image.grad, expected, rtol=1e-3, atol=1e-6)


def test_gradient_descent_is_the_formula_projected(vgg, pair) -> None:
    content, style = pair

    def grey(x: Tensor) -> Tensor:  # a projection
        return x.mean(1, keepdim=True).expand_as(x)

    x0 = grey(content).clone().requires_grad_()
    objective = Objective(vgg, content, style, WEIGHTS, *LAYERS)
    [gradient] = torch.autograd.grad(objective(x0)["total"], x0)
    expected = grey(x0.detach() - 3e-5 * x0.numel() * gradient)
    result = solve(content, style, vgg=vgg, steps=1, method="gradient", lr=3e-5, constraint=grey)
    torch.testing.assert_close(result, expected.clamp(0, 1))


@pytest.mark.parametrize(
    ("method", "start", "share"),
    [
        ("lbfgs", "content", 0.3),
        ("lbfgs", "noise", 0.3),
        ("adam", "content", 0.6),
        ("gradient", "content", 0.8),
    ],
)
def test_every_method_lowers_the_loss(vgg, pair, method, start, share) -> None:
    result, found = losses_of(vgg, pair, steps=15, method=method, start=start)
    totals = [each["total"] for each in found]
    assert len(totals) == 16
    assert totals[-1] < share * totals[0]
    assert found[-1]["style"] < found[0]["style"]
    assert result.shape == (1, 3, SIZE, SIZE)
    assert 0 <= result.min() <= result.max() <= 1


def test_noise_depends_on_the_seed_alone(vgg, pair) -> None:
    first, again, other = (
        solve(*pair, vgg=vgg, steps=0, start="noise", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_coarse_to_fine(vgg, pair) -> None:
    sizes = []
    result = solve(
        *pair, vgg=vgg, steps=[8, 4], callback=lambda k, x, losses: sizes.append(x.shape[-1])
    )
    assert sizes == [SIZE // 2] * 9 + [SIZE] * 5
    assert result.shape == pair[0].shape
    unchanged = solve(*pair, vgg=vgg, steps=[0, 0])
    torch.testing.assert_close(unchanged, pair[0])  # what is not changed keeps its detail
    _, fine = losses_of(vgg, pair, steps=4)
    _, both = losses_of(vgg, pair, steps=[8, 4])
    assert both[-1]["total"] < fine[-1]["total"]


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_every_image_obeys_the_constraint(vgg, pair, method) -> None:
    images = []
    solve(
        *pair,
        vgg=vgg,
        steps=3,
        method=method,
        constraint=["photoreal", lambda x: x.clamp(0.2, 0.8)],
        cutoff=0.1,
        callback=lambda k, x, losses: images.append(x),
    )
    assert len(images) == 4
    assert all(0.2 <= x.min() <= x.max() <= 0.8 for x in images)
    assert not torch.equal(images[1], images[3])


@pytest.mark.parametrize(("method", "lr"), [("adam", 0.1), ("gradient", 3e-4)])
def test_no_progress_is_lost_to_the_final_clipping(vgg, pair, method, lr) -> None:
    """Otherwise the last loss would be that of an image that is never returned."""
    images = []
    result, found = losses_of(vgg, pair, steps=6, method=method, lr=lr, style_weight=100)
    solve(
        *pair,
        vgg=vgg,
        steps=6,
        method=method,
        lr=lr,
        style_weight=100,
        callback=lambda k, x, losses: images.append(x),
    )
    assert all(0 <= x.min() <= x.max() <= 1 for x in images)
    assert any(((x == 0) | (x == 1)).float().mean() > 0.01 for x in images)  # clipping occurred
    objective = Objective(vgg, *pair, {**WEIGHTS, "style": 100}, *LAYERS)
    assert objective(result)["total"].item() == pytest.approx(found[-1]["total"], rel=1e-5)


def test_bfloat16_descends_alike(vgg, pair) -> None:
    result, found = losses_of(vgg, pair, steps=8, method="adam")
    half, alike = losses_of(vgg, pair, steps=8, method="adam", precision="bfloat16")
    assert half.dtype == torch.float32
    assert alike[0] != found[0]
    assert alike[-1]["total"] == pytest.approx(found[-1]["total"], rel=0.03)
    assert (half - result).abs().mean() < 0.01


def test_photoreal_is_the_projection_and_nothing_else(vgg, pair) -> None:
    """Unlike after the network's updates, since one step is small here."""
    content, _ = pair
    options = {"steps": 3, "method": "adam"}
    named, _ = losses_of(vgg, pair, constraint="photoreal", cutoff=0.01, **options)
    given, _ = losses_of(
        vgg, pair, constraint=Photoreal(content, 0.01, eps=1e-7).projection, **options
    )
    assert torch.equal(named, given)


@pytest.mark.slow
def test_penalty_and_projection_give_similar_pictures(vgg) -> None:
    """The two formulations of Puy and Pérez (2018), from the same losses, on the same pair: as much
    style, as little energy, and pictures closer to each other than plain Gatys is to either."""
    pair = load_photo("astronaut", 64).float(), load_photo("coffee", 64).float()
    laplacian = MattingLaplacian(pair[0])
    options = {"steps": 60, "method": "adam"}
    plain, _ = losses_of(vgg, pair, **options)
    penalty, p = losses_of(vgg, pair, matting_weight=1e4, **options)
    projected, q = losses_of(vgg, pair, constraint="photoreal", cutoff=0.003, **options)

    def far(a: Tensor, b: Tensor) -> float:
        return (a - b).square().mean().sqrt().item()

    assert p[-1]["style"] == pytest.approx(q[-1]["style"], rel=0.2)
    for picture in (penalty, projected):
        assert laplacian.energy(picture) < laplacian.energy(plain) / 500
        assert far(penalty, projected) < 0.7 * far(plain, picture)
    assert far(penalty, projected) < 0.1
    assert gradient_ssim(penalty, projected).item() > 0.8


def test_the_structure_weight_preserves_structure(vgg, pair) -> None:
    options = {"steps": 20, "method": "adam", "content_weight": 0}
    _, without = losses_of(vgg, pair, structure_weight=1e-9, **options)
    result, kept = losses_of(vgg, pair, structure_weight=5, **options)
    assert without[0]["structure"] == pytest.approx(0, abs=1e-5)
    assert kept[-1]["structure"] < 0.5 * without[-1]["structure"]
    assert kept[-1]["style"] < 0.5 * kept[0]["style"]
    assert structure_loss(result, pair[0]).item() < 1.2 * kept[-1]["structure"]  # but for clipping


def test_the_structure_loss_is_differentiated() -> None:
    torch.manual_seed(0)
    image, content = torch.rand(2, 1, 3, 9, 10, dtype=torch.float64)
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: structure_loss(x, content), image)
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    structure_loss(flat, torch.rand(1, 3, 16, 16)).backward()  # the magnitude's slope at 0
    assert flat.grad.isfinite().all()


def test_stops_early_and_reports_divergence(vgg, pair) -> None:
    _, found = losses_of(vgg, pair, steps=60, method="adam", tolerance=0.5)
    assert 11 <= len(found) < 40
    with pytest.raises(
        RuntimeError, match=r"diverged: the loss is .* after 1 iterations.*lr must be lower, got 1$"
    ):
        solve(*pair, vgg=vgg, steps=5, method="gradient", lr=1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"content": torch.zeros(1, 3, 8, 8)}, r"content must be a tensor .* got \(1, 3, 8, 8\)"),
        ({"content": torch.full((3, 48, 48), torch.nan)}, "content must be finite"),
        (
            {"style": torch.full((3, 48, 48), 2.0)},
            r"style must be .* in \[0, 1\], got values from 2",
        ),
        ({"steps": -1}, "steps must be at least 0, for one or more scales, got -1"),
        ({"steps": []}, "steps must be"),
        ({"method": "newton"}, "method must be one of lbfgs, adam, gradient, got 'newton'"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0"),
        ({"start": "style"}, "start must be 'content', 'noise' or an image, got 'style'"),
        ({"start": torch.zeros(3, 20, 20)}, "start must have the content's shape"),
        ({"cutoff": 0.1}, "cutoff must be None without constraint='photoreal'"),
        ({"style_layers": {"conv9_1": 1.0}}, "conv9_1"),
        (
            {"regions": (torch.ones(1, 48, 48), torch.ones(2, 32, 48))},
            "as many masks of the content",
        ),
        (
            {"regions": (torch.ones(1, 9, 9), torch.ones(1, 32, 48))},
            "of one content",
        ),
        ({"regions": (torch.zeros(1, 48, 48), torch.ones(1, 32, 48))}, "none of them empty"),
    ],
)
def test_wrong_arguments_raise(vgg, pair, options, sentence) -> None:
    given = {"content": pair[0], "style": pair[1], **options}
    with pytest.raises(ValueError, match=sentence):
        solve(given.pop("content"), given.pop("style"), vgg=vgg, **given)


@pytest.mark.parametrize("none", ["style_weight", "content_weight"])
def test_nothing_is_left_to_do_at_a_minimum(vgg, pair, none) -> None:
    """Without a style the content is the minimum, without a content its own style is."""
    result = solve(pair[0], pair[0], vgg=vgg, steps=2, **{none: 0.0})
    torch.testing.assert_close(result, pair[0], rtol=0, atol=1e-5)


def test_a_picture_in_its_own_style(tmp_path, pair) -> None:
    path, out = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray((pair[0][0] * 255).byte().permute(1, 2, 0).numpy()).save(path)
    command = ["optimize", str(path), "--style", str(path), "-o", str(out), "--steps", "1"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert Image.open(out).size == (48, 48)


def test_command(tmp_path, pair) -> None:
    content, style, out = (tmp_path / name for name in ("content.png", "style.png", "out.png"))
    for path, image in zip((content, style), pair, strict=True):
        Image.fromarray((image[0] * 255).byte().permute(1, 2, 0).numpy()).save(path)
    command = ["optimize", str(content), "--style", str(style), "-o", str(out)]
    done = CliRunner().invoke(cli, [*command, "--steps", "2,1", "--photoreal"])
    assert done.exit_code == 0, done.output
    assert out.is_file()
    assert "48 x 48" in done.output
    assert "total" in done.output  # the losses during the run
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 2
    assert "exists already; --force overwrites" in again.output
    bad = CliRunner().invoke(cli, [*command, "--force", "--style-layers", "conv1_1=x"])
    assert bad.exit_code == 2
    assert "must be layers and weights" in bad.output


def test_hidden_pixels_count_for_nothing_and_stay(tmp_path, pair) -> None:
    """What they hold changes nothing visible, and what they held comes back."""
    content, style = ((image[0] * 255).byte().permute(1, 2, 0).numpy() for image in pair)
    alpha = np.zeros((48, 48, 1), np.uint8)
    alpha[8:40, 10:44], alpha[20:30] = 255, 90
    names = [str(tmp_path / name) for name in ("content.png", "style.png", "out.png")]
    results = []
    for hidden in (0, 255):
        for name, image in zip(names, (content, style), strict=False):
            visible = alpha[: len(image), : image.shape[1]]
            held = np.where(visible > 0, image, np.uint8(hidden))
            Image.fromarray(np.concatenate([held, visible], -1)).save(name)
        args = [names[0], "--style", names[1], "-o", names[2], "--steps", "2", "--force"]
        done = CliRunner().invoke(cli, ["optimize", *args])
        assert done.exit_code == 0, done.output
        results.append(np.asarray(Image.open(names[2])))
        assert (results[-1][..., :3][alpha[..., 0] == 0] == hidden).all()
        np.testing.assert_array_equal(results[-1][..., 3:], alpha)
    visible = alpha[..., 0] > 0
    np.testing.assert_array_equal(*(result[visible] for result in results))
    assert (results[0][..., :3] != content)[visible].mean() > 0.5


def test_a_hidden_style_is_refused(tmp_path, pair) -> None:
    paths = [str(tmp_path / name) for name in ("content.png", "style.png", "out.png")]
    for path, mode in zip(paths, ("RGB", "RGBA"), strict=False):
        Image.new(mode, (48, 48)).save(path)
    done = CliRunner().invoke(cli, ["optimize", paths[0], "--style", paths[1], "-o", paths[2]])
    assert done.exit_code == 2
    assert "style must have visible pixels, got alpha 0 everywhere" in done.output
