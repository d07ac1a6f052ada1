"""Kinds of image in and out, statistics as state, strength, constraints, and errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from pictures import noise
from PIL import Image, ImageCms
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastfcs import MattingLaplacian, images, presets
from fastfcs.constraints import Photoreal
from fastfcs.filters import LowPass
from fastfcs.network import UnrolledSolver
from fastfcs.refinement import RefinedSolver, Refinement
from fastfcs.stylizer import Stylizer, mirrored

H, W = 24, 33


@pytest.fixture
def solver() -> UnrolledSolver:
    return UnrolledSolver(updates=2, channels=(8, 12)).eval().requires_grad_(False)


CONTENT = noise(3, H, W, seed=2)
STYLE = noise(3, 40, 20, seed=3)


def stylizer(solver: UnrolledSolver | RefinedSolver, **options: object) -> Stylizer:
    return Stylizer(STYLE, weights=solver, **options)  # type: ignore[arg-type]


def test_equals_the_solver_with_the_style_s_statistics(solver: UnrolledSolver) -> None:
    with torch.no_grad():
        want = solver(CONTENT[None], solver.statistics(mirrored(STYLE[None]))).clamp(0, 1)
    found = stylizer(solver)(CONTENT)
    torch.testing.assert_close(found, want[0], rtol=0, atol=1e-6)
    assert (found - CONTENT).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_keep_shape_and_dtype(solver: UnrolledSolver, dtype: torch.dtype) -> None:
    module = stylizer(solver)
    want = module(CONTENT)
    for content in (CONTENT, CONTENT[None], CONTENT[None].expand(2, -1, -1, -1)):
        found = module(content.to(dtype))
        assert found.dtype == dtype
        assert found.shape == content.shape
        torch.testing.assert_close(found.float(), want.expand_as(found), rtol=0, atol=0.02)
    channels_last = CONTENT[None].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(channels_last)[0], want)


def test_arrays_keep_shape_dtype_and_range(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    hwc = CONTENT.permute(1, 2, 0).numpy()
    for dtype, top, close in (
        (np.uint8, 255, 2 / 255),
        (np.uint16, 65535, 1e-4),
        (np.float16, 1, 2e-3),
        (np.float32, 1, 1e-6),
        (np.float64, 1, 1e-6),
    ):
        content = (hwc * top).round().astype(dtype) if top > 1 else hwc.astype(dtype)
        found = module(content)
        assert isinstance(found, np.ndarray)
        assert found.dtype == dtype
        assert found.shape == (H, W, 3)
        want = module(CONTENT).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found.astype(float) / top, want, rtol=0, atol=close)
        reversed_ = np.ascontiguousarray(content[..., ::-1])[..., ::-1]  # as OpenCV's BGR
        np.testing.assert_array_equal(module(reversed_), found)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_pil_images_keep_size_alpha_and_profile(solver: UnrolledSolver, mode: str) -> None:
    module = stylizer(solver)
    array = (noise(H, W, 4).numpy() * 255).astype(np.uint8)
    content = Image.fromarray(array if mode in ("RGBA", "LA") else array[..., :3]).convert(mode)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content.info["icc_profile"] = profile
    found = module(content)
    assert isinstance(found, Image.Image)
    assert found.size == (W, H)
    assert found.info["icc_profile"] == profile
    assert found.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")
    if found.mode == "RGBA":
        np.testing.assert_array_equal(np.asarray(found)[..., 3], array[..., 3])
    if found.mode == "RGB":
        want = module(np.asarray(content.convert("RGB")))
        np.testing.assert_array_equal(np.asarray(found), want)


def cut_out(height: int, width: int) -> Tensor:
    """Alpha of an ellipse with an antialiased border, (H, W)."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return ((0.8 - (y**2 + x**2).sqrt()) * min(height, width) / 4).clamp(0, 1)


def hiding(image: Tensor, alpha: Tensor) -> list[images.Picture]:
    """Pictures (3, H, W) that look the same, with black, white and noise in their hidden pixels."""
    others = torch.zeros(()), torch.ones(()), noise(*image.shape, seed=9)
    return [images.Picture(torch.where(alpha > 0, image, other), alpha) for other in others]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"constraint": "photoreal"},
        {"refine": True},
        {"constraint": "keep-colour"},
        {"constraint": "photoreal", "refine": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "artistic",
)
@pytest.mark.parametrize("regions", [False, True])
def test_what_hidden_pixels_hold_changes_nothing_visible(
    photo, options: dict[str, Any], regions: bool
) -> None:
    content, style = photo("chelsea", 56)[0].float(), photo("coffee", 48)[0].float()
    alpha, of_style = (cut_out(*x.shape[-2:]) for x in (content, style))
    module = Stylizer(weights="tiny", style_size=40, brush=1.25, **options)
    left, of_left = torch.zeros(2, *alpha.shape), torch.zeros(2, *of_style.shape)
    for half in (left, of_left):
        middle = half.shape[-1] // 2
        half[0, :, :middle] = half[1, :, middle:] = 1
    results = []
    contents = hiding(content, alpha)
    for other, reference in zip(contents, hiding(style, of_style), strict=True):
        module.set_style(reference, regions=of_left if regions else None)
        results.append(module(other, left if regions else None))
    visible = (alpha > 0).expand_as(content)
    for picture, found in zip(contents, results, strict=True):
        assert (found.pixels - results[0].pixels)[visible].abs().max() < 1e-5
        assert torch.equal(found.pixels[~visible], picture.pixels[~visible])
        assert torch.equal(found.alpha, alpha)
    assert (results[0].pixels - content)[visible].abs().mean() > 0.02


@pytest.mark.parametrize(("refine", "largest"), [(False, 2.5), (True, 5)])
def test_the_surroundings_of_a_cut_out_count_for_nothing(photo, refine, largest) -> None:
    """In content and style, as if the visible rectangle were the whole picture: Delta E 2000.

    A few of the differences remain: near the edge the features see the filled surroundings instead
    of the end of the picture.
    """
    content, style = photo("chelsea", 256)[0].float(), photo("coffee", 256)[0].float()
    rows, columns = slice(32, 128), slice(64, 208)
    alpha = torch.zeros(style.shape[-2:])
    alpha[rows, columns] = 1
    module = Stylizer(weights="tiny", refine=refine, constraint="photoreal")

    def restyled(content: Any, style: Any) -> NDArray[Any]:
        result = module.set_style(style)(content)
        return to_lab(result if isinstance(result, Tensor) else result.pixels)

    part = (slice(48, 112), slice(80, 192))  # away from the edge
    want = restyled(content[:, rows, columns], style)[16:-16, 16:-16]
    here = alpha[: content.shape[1]]
    black = hiding(content, here)[0]
    assert deltaE_ciede2000(restyled(black, style)[part], want).mean() < largest
    assert deltaE_ciede2000(restyled(black.pixels, style)[part], want).mean() > 10
    want = restyled(content, style[:, rows, columns])
    black = hiding(style, alpha)[0]
    assert deltaE_ciede2000(restyled(content, black), want).mean() < largest
    assert deltaE_ciede2000(restyled(content, black.pixels), want).mean() > 10


def to_lab(image: Tensor) -> NDArray[Any]:
    return rgb2lab(image.permute(1, 2, 0).double().numpy())


def test_alpha_that_is_the_same_everywhere_changes_nothing(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    want = module(CONTENT)
    for value in (0.5, 1.0):
        alpha = torch.full((H, W), value)
        found = module(images.Picture(CONTENT, alpha))
        assert torch.equal(found.pixels, want)
        assert torch.equal(found.alpha, alpha)
        style = images.Picture(STYLE, torch.full(STYLE.shape[1:], value))
        assert torch.equal(Stylizer(style, weights=solver)(CONTENT), want)


def test_pictures_without_visible_pixels(solver: UnrolledSolver) -> None:
    hidden = images.Picture(CONTENT, torch.zeros(H, W))
    assert torch.equal(stylizer(solver, constraint="photoreal")(hidden).pixels, CONTENT)
    with pytest.raises(ValueError, match="style must have visible pixels, got alpha 0 everywhere"):
        Stylizer(hidden, weights=solver)
    half = images.Picture(CONTENT, (torch.arange(W) < 16).float().expand(H, W))
    regions = torch.stack([half.alpha, 1 - half.alpha])
    with pytest.raises(ValueError, match="visible pixels, got alpha 0 throughout a region"):
        Stylizer(weights=solver).set_style(half, regions=regions)
    module = Stylizer([STYLE, STYLE.flip(0)], weights=solver, constraint="photoreal")
    found = module(half, regions).pixels  # a region may well be the background that was cut away
    assert found.isfinite().all()
    assert torch.equal(found[..., 16:], CONTENT[..., 16:])
    assert (found - CONTENT)[..., :16].abs().mean() > 1e-3


def test_cut_outs_from_pil_and_files(solver: UnrolledSolver, tmp_path: Path) -> None:
    pixels = images.to_samples(torch.cat([CONTENT, cut_out(H, W)[None]]), 8)
    black = pixels * (pixels[..., 3:] > 0)
    found = [np.asarray(stylizer(solver)(Image.fromarray(each))) for each in (pixels, black)]
    visible = pixels[..., 3] > 0
    np.testing.assert_array_equal(found[0][visible], found[1][visible])
    np.testing.assert_array_equal(found[1][~visible], black[~visible])
    for each in (pixels, black):
        Image.fromarray(each).save(tmp_path / "style.png")
        found.append(Stylizer(tmp_path / "style.png", weights=solver)(STYLE).numpy())
    np.testing.assert_array_equal(found[2], found[3])


def test_strength(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    full = module(CONTENT)
    module.strength = 0.25
    with torch.no_grad():
        raw = solver(CONTENT[None], solver.statistics(mirrored(STYLE[None])))[0]
    torch.testing.assert_close(module(CONTENT), CONTENT.lerp(raw, 0.25).clamp(0, 1))
    module.strength = 0
    half = CONTENT.half()
    deep = np.random.default_rng(0).integers(0, 65536, (H, W, 3), dtype=np.uint16)
    picture = Image.fromarray((deep >> 8).astype(np.uint8))
    assert torch.equal(module(CONTENT), CONTENT)
    assert torch.equal(module(half), half)
    np.testing.assert_array_equal(module(deep), deep)
    assert module(picture).tobytes() == picture.tobytes()
    assert not torch.equal(full, CONTENT)
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="strength must be in"):
            module.strength = bad


def test_styles_of_any_kind_agree(solver: UnrolledSolver, tmp_path: Path) -> None:
    style = (STYLE * 255).round() / 255
    array = images.to_samples(style, 8)
    Image.fromarray(array).save(tmp_path / "style.png")
    want = Stylizer(style, weights=solver)(CONTENT)
    for same in (style[None], array, Image.fromarray(array), tmp_path / "style.png"):
        torch.testing.assert_close(Stylizer(same, weights=solver)(CONTENT), want)


def test_one_style_for_each_element(solver: UnrolledSolver) -> None:
    other = noise(3, 30, 30, seed=9)
    contents = torch.stack([CONTENT, CONTENT.flip(2)])
    found = Stylizer([STYLE, other], weights=solver)(contents)
    torch.testing.assert_close(found[0], Stylizer(STYLE, weights=solver)(contents[0]))
    torch.testing.assert_close(found[1], Stylizer(other, weights=solver)(contents[1]))
    batch = Stylizer(torch.stack([STYLE, STYLE.flip(0)]), weights=solver)
    torch.testing.assert_close(batch(contents)[0], found[0])
    with pytest.raises(
        ValueError,
        match="content must be a single image or a batch of 2, one per style, got a batch of 3",
    ):
        batch(noise(3, 3, H, W))


def test_large_styles_are_reduced(solver: UnrolledSolver) -> None:
    small = images.fit(STYLE[None], 30)
    assert small.shape[-2:] == (30, 15)
    style = noise(3, 64, 48)
    reduced = Stylizer(style, weights=solver, style_size=32)(CONTENT)
    want = Stylizer(images.fit(style[None], 32), weights=solver, style_size=None)(CONTENT)
    assert torch.equal(reduced, want)
    assert not torch.equal(reduced, Stylizer(style, weights=solver, style_size=None)(CONTENT))


def test_state(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    assert {"statistics.0_0", "statistics.0_1"} <= set(state)
    other = UnrolledSolver(updates=2, channels=(8, 12))
    for loaded in (Stylizer(weights=other), Stylizer([STYLE, CONTENT], weights=other)):
        loaded.load_state_dict(state)
        torch.testing.assert_close(loaded(CONTENT), module(CONTENT))
    with pytest.raises(RuntimeError, match="no style yet"):
        Stylizer(weights=solver)(CONTENT)
    with pytest.raises(RuntimeError, match="statistics"):
        module.load_state_dict(solver.state_dict())


def test_dtypes_of_the_module(solver: UnrolledSolver) -> None:
    want = stylizer(solver)(CONTENT)
    double = stylizer(copy.deepcopy(solver)).double()
    assert next(double.parameters()).dtype == torch.float64
    torch.testing.assert_close(double(CONTENT.double()).float(), want, rtol=0, atol=1e-5)
    half = stylizer(solver).to(torch.bfloat16)
    assert {h.dtype for h in half.statistics.buffers()} == {torch.float32}
    found = half(CONTENT)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=0, atol=0.05)


def test_constraints_are_applied_after_every_update(solver: UnrolledSolver) -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []

    def recorder(name: str) -> Callable[[Tensor], Tensor]:
        def constraint(x: Tensor) -> Tensor:
            calls.append((name, tuple(x.shape)))
            return x * 0.5

        return constraint

    module = stylizer(solver, constraint=[recorder("a"), recorder("b")])
    module(CONTENT)
    assert calls == [(name, (1, 3, H, W)) for name in "abab"]
    calls.clear()
    module.constraint = recorder("c")
    module(CONTENT)
    assert calls == [("c", (1, 3, H, W))] * 2
    module.constraint = None
    assert torch.equal(module(CONTENT), stylizer(solver)(CONTENT))


def photographs(photo: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    return photo("coffee", 128).float(), photo("rocket", 128).float()


def rough(change: Tensor, content: Tensor) -> float:
    """The fraction of a change's energy outside smooth signals, ||(I - U U^T) D||^2 / ||D||^2.

    U spans the eigenvectors of the content's explicit matting Laplacian below 0.03, by SciPy.
    """
    matrix = MattingLaplacian(content.double(), eps=1e-4).to_scipy().toarray()
    values, vectors = scipy.linalg.eigh(matrix, subset_by_value=(-1, 0.03))
    assert 10 < len(values) < len(matrix) / 2
    columns = change[0].flatten(1).double().numpy().T
    smooth = vectors @ (vectors.T @ columns)
    return float(((columns - smooth) ** 2).sum() / (columns**2).sum())


def test_photoreal_changes_only_what_is_smooth_along_the_content(photo) -> None:
    content, style = (images.fit(x, 40) for x in photographs(photo))
    changes = {}
    for constraint in (None, "photoreal"):
        module = Stylizer(
            style,
            weights="tiny",
            refine=False,
            constraint=constraint,
            cutoff=constraint and 0.01,
        )
        changes[constraint] = module(content) - content
    assert rough(changes["photoreal"], content) < 0.02
    assert rough(changes[None], content) > 0.1
    # It is still a style transfer: colours move towards the style.
    assert changes["photoreal"].square().mean().sqrt() > 0.05
    distance = style.mean((2, 3)) - content.mean((2, 3))
    assert (changes["photoreal"].mean((2, 3)) * distance).sum() > 0.25 * distance.square().sum()


def test_photoreal_ends_softly_clipped_only_if_it_comes_last(photo) -> None:
    content, style = photographs(photo)
    soft, hard = (
        Stylizer(style, weights="tiny", refine=False, constraint=constraint)(content)
        for constraint in ("photoreal", ["photoreal", lambda x: x])
    )
    assert (hard == 0).float().mean() > 0.005  # shadows driven below 0
    assert (soft == 0).float().mean() < 1e-4
    inside = (hard > 0.25) & (hard < 0.75)
    assert inside.any()
    # Nor are they different elsewhere, but where text and even grounds are kept once more.
    assert ((soft - hard)[inside].abs() < 1e-5).float().mean() > 0.98


def test_photoreal_by_region_stays_closer_to_the_content(photo) -> None:
    content, style = photographs(photo)
    everywhere = torch.ones(1, *content.shape[-2:])
    module = Stylizer(style, weights="tiny", constraint="photoreal")
    whole = module(content) - content
    module.set_style(style, regions=everywhere)
    by_region = module(content, everywhere) - content
    ratio = float(by_region.norm() / whole.norm())
    # One proximal step of weight w keeps 1 / (1 + w) of the change, here 0.91.
    assert 0.7 < ratio < 0.97


def test_grad_mode_is_honoured(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    assert not module(CONTENT).requires_grad
    content = CONTENT.clone().requires_grad_()
    module(content).sum().backward()
    assert content.grad is not None
    assert content.grad.abs().sum() > 0
    with torch.no_grad():
        assert not module(content).requires_grad
    assert isinstance(module(content.detach().permute(1, 2, 0).numpy()), np.ndarray)


class NoCopyBetweenDevices(TorchDispatchMode):
    """Raises at copies from one device to another, for which the host waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {each.device.type for each in (*args, result) if isinstance(each, Tensor)}
            assert len(devices) == 1, f"{func} between {devices}"
        return result


@pytest.mark.parametrize(
    ("constraint", "refine"),
    [(None, False), ("photoreal", False), ("photoreal", True), ("keep-colour", True)],
)
def test_on_cuda_the_host_never_waits(constraint: str | None, refine: bool) -> None:
    """Fake CUDA tensors have no values: any wait of the host raises, with a GPU or without."""
    solver = UnrolledSolver(updates=2, channels=(8, 12))
    network = RefinedSolver(solver, Refinement(updates=2)) if refine else solver
    module = Stylizer(weights=network.eval(), constraint=constraint, style_size=32)
    lowpass = LowPass(0.01)  # from coefficients that NumPy computes
    with FakeTensorMode(allow_non_fake_inputs=True), NoCopyBetweenDevices():
        for part in module.modules():
            for key, weight in part.named_parameters(recurse=False):
                there = torch.empty(weight.shape, device="cuda")
                part._parameters[key] = torch.nn.Parameter(there, requires_grad=False)
            for key, buffer in part.named_buffers(recurse=False):
                part._buffers[key] = torch.empty(buffer.shape, device="cuda")
        content, style = torch.rand(2, 2, 3, 40, 60, device="cuda").unbind()
        result = module.set_style(style)(content)
        half = module(content.half())
        module(torch.rand(2, 3, 200, 300, device="cuda"))  # at several scales
        alpha = torch.rand(1, 1, 40, 60, device="cuda")
        regions = torch.rand(2, 40, 60, device="cuda")
        filled = images.fill_hidden(style, alpha).narrow(0, 0, 1)
        statistics = module.solver.statistics(filled, alpha.squeeze(0))
        module.solver(content, statistics, alpha=alpha)
        two = module.solver.statistics(filled, regions * alpha.squeeze(0))
        module.solver(content.narrow(0, 0, 1), two, regions=regions, alpha=alpha)
        Photoreal(content, lowpass).start(statistics.colours, alpha)
        with pytest.raises(DataDependentOutputException):  # like any access to a value
            bool(result.max() > 1)
        with pytest.raises((AssertionError, RuntimeError)):  # the latter: torch without CUDA
            result.cpu()
        with pytest.raises(DataDependentOutputException):  # on the CPU, values are checked
            module(torch.rand(2, 3, 40, 60))
    for found in (result, half):
        assert found.is_cuda
        assert found.shape == content.shape
    assert (result.dtype, half.dtype) == (torch.float32, torch.float16)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("constraint", "refine"),
    [(None, False), ("photoreal", False), ("photoreal", True), (None, True)],
)
def test_cuda_graph_of_a_whole_call(
    solver: UnrolledSolver, constraint: str | None, refine: bool
) -> None:
    network = RefinedSolver(solver) if refine else solver
    module = stylizer(network.eval().cuda(), constraint=constraint)
    content = CONTENT[None].cuda()
    expected = [module(content), module(content.flip(-1))]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(content)
    for want in (*expected, expected[0]):
        graph.replay()
        torch.testing.assert_close(result, want, rtol=0, atol=1e-6)
        content.copy_(content.flip(-1))


def test_presets(solver: UnrolledSolver, tmp_path: Path) -> None:
    path = tmp_path / "preset.safetensors"
    presets.write([solver.statistics(mirrored(STYLE[None]))], path, {})
    torch.testing.assert_close(Stylizer(path, weights=solver)(CONTENT), stylizer(solver)(CONTENT))
    other = UnrolledSolver(updates=1, channels=(8,))
    with pytest.raises(
        ValueError, match=r"style must be a preset of these weights, got .*preset\.safetensors"
    ):
        Stylizer(path, weights=other)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as a preset"):
        Stylizer(path, weights=solver)
    with pytest.raises(ValueError, match="cannot be read as a preset"):
        Stylizer(tmp_path / "gone.safetensors", weights=solver)


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (noise(3, 15, 40), ValueError, "content must be at least 16 pixels per side, got 40 x 15"),
        (noise(1, 20, 20), ValueError, r"content must be a tensor \(3, H, W\)"),
        (noise(20, 20), ValueError, r"content must be a tensor \(3, H, W\)"),
        (noise(0, 3, 20, 20), ValueError, r"content must be a tensor \(3, H, W\)"),
        (noise(20, 20, 4).numpy(), ValueError, r"content must be an array \(H, W, 3\)"),
        (noise(20, 20).numpy(), ValueError, r"content must be an array \(H, W, 3\)"),
        (
            noise(3, 20, 20) * 255,
            ValueError,
            r"content must be finite and in \[0, 1\], got values from",
        ),
        (
            noise(3, 20, 20) - 0.5,
            ValueError,
            r"content must be finite and in \[0, 1\], got values from",
        ),
        (noise(3, 20, 20) / 0, ValueError, "content must be finite"),
        (noise(3, 20, 20) * float("nan"), ValueError, "content must be finite"),
        (np.full((20, 20, 3), np.inf), ValueError, "content must be finite"),
        (noise(3, 20, 20).byte(), TypeError, "content must be a floating tensor"),
        (np.zeros((20, 20, 3), np.int32), TypeError, "content must be an array of uint8, uint16"),
        (
            Image.new("CMYK", (20, 20)),
            ValueError,
            "content must be RGB: CMYK without an ICC profile",
        ),
        (
            Image.new("LAB", (20, 20)),
            ValueError,
            "content must be a PIL image of mode .* got LAB",
        ),
        (
            Image.new("I", (20, 20), 65536),
            ValueError,
            "values of Pillow's mode I must be in .* got 65536",
        ),
        (np.zeros((20, 20), np.uint8), ValueError, r"pass np.stack\(\[array\] \* 3, -1\)"),
        (np.zeros((20, 20, 4), np.uint8), ValueError, r"pass array\[..., :3\]"),
        (np.zeros((20, 20, 3), bool), TypeError, r"pass array.astype\(float\)"),
        (torch.zeros(3, 20, 20, dtype=torch.uint8), TypeError, "divide it by 255"),
        (torch.zeros(3, 20, 20, device="meta"), ValueError, "content must hold values"),
        ("photo.jpg", TypeError, "content must be a tensor, array, PIL image or Picture, got str"),
    ],
)
def test_wrong_contents_raise(
    solver: UnrolledSolver, content: object, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        stylizer(solver)(content)  # type: ignore[type-var]
    assert "\n" not in str(caught.value)


def test_wrong_arguments_raise(solver: UnrolledSolver, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="style must be at least 16 pixels"):
        Stylizer(noise(3, 8, 8), weights=solver)
    with pytest.raises(ValueError, match="style must be at least one image"):
        Stylizer([], weights=solver)
    with pytest.raises(ValueError, match=r"gone\.png cannot be read"):
        Stylizer(tmp_path / "gone.png", weights=solver)
    with pytest.raises(ValueError, match=r"constraint must be None, 'photoreal', .* a callable"):
        stylizer(solver, constraint="painting")
    with pytest.raises(ValueError, match="cutoff must be None without constraint='photoreal'"):
        stylizer(solver, cutoff=0.1)
    with pytest.raises(ValueError, match=r"cutoff must be in \(0, 9\), got 0"):
        stylizer(solver, constraint="photoreal", cutoff=0)
    with pytest.raises(ValueError, match="style_size must be"):
        stylizer(solver, style_size=3)
    with pytest.raises(FileNotFoundError, match="weights must be"):
        Stylizer(weights="no such weights")


def test_rotated_pictures_come_out_upright(solver: UnrolledSolver) -> None:
    upright = Image.fromarray((noise(3, 24, 40) * 255).byte().permute(1, 2, 0).numpy())
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    module = Stylizer(upright, weights=solver)
    result = module(turned)
    assert result.size == upright.size
    assert result.tobytes() == module(upright).tobytes()
    assert 0x0112 not in result.getexif()
    assert Stylizer(turned, weights=solver)(upright).tobytes() == module(upright).tobytes()


def test_the_state_of_another_network_leaves_a_style(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    other = stylizer(UnrolledSolver(updates=2, channels=(8, 20)))
    with pytest.raises(
        RuntimeError, match="statistics must be complete and belong to this network"
    ):
        module.load_state_dict(other.state_dict())
    state = module.state_dict()
    del state["statistics.0_0"]
    with pytest.raises(
        RuntimeError, match="statistics must be complete and belong to this network"
    ):
        module.load_state_dict(state)
    assert module(CONTENT).shape == CONTENT.shape


def test_regions_of_a_style_are_not_clipped(solver: UnrolledSolver) -> None:
    masks = torch.full((1, *STYLE.shape[-2:]), 255.0)
    with pytest.raises(ValueError, match=r"regions must be masks in \[0, 1\], none of them empty"):
        Stylizer(weights=solver).set_style(STYLE, regions=masks)


def grey_16() -> NDArray[np.uint16]:
    return (noise(H, W).numpy() * 65535).astype(np.uint16)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_grey_pil_images(solver: UnrolledSolver, mode: str) -> None:
    array, module = grey_16(), stylizer(solver)
    image = Image.fromarray(
        {"F": array / np.float32(65535), "I": array.astype(np.int32)}.get(mode, array)
    )
    if mode == "I;16B":
        image = Image.frombytes(mode, (W, H), array.astype(">u2").tobytes())
    assert image.mode == mode
    module.strength = 0
    found = np.asarray(module(image))
    assert found.dtype == np.uint8
    assert np.abs(found - array[..., None] / 257).max() <= 0.51
    module.strength = 1
    three = module(np.stack([array] * 3, -1))
    assert np.abs(np.asarray(module(image)) - three / 257).max() <= 0.6


def test_advice_works(solver: UnrolledSolver) -> None:
    module = stylizer(solver)
    array = (noise(H, W).numpy() * 255).astype(np.uint8)
    four = (noise(H, W, 4).numpy() * 255).astype(np.uint8)
    mask = array > 127
    assert module(np.stack([array] * 3, -1)).shape == (H, W, 3)
    assert module(four[..., :3]).shape == (H, W, 3)
    assert module(Image.fromarray(four)).mode == "RGBA"
    assert module(np.stack([mask] * 3, -1).astype(float)).shape == (H, W, 3)
    assert module(np.stack([array] * 3, -1).astype(np.int64).astype(np.uint8)).dtype == np.uint8
    for dtype, limit in ((torch.uint8, 255), (torch.uint16, 65535)):
        integers = torch.full((3, H, W), limit, dtype=torch.int64).to(dtype)
        assert module(integers / limit).shape == (3, H, W)
    assert module(Image.new("CMYK", (W, H)).convert("RGB")).mode == "RGB"


@pytest.mark.parametrize("constraint", [None, "photoreal", "keep-colour"])
def test_rounding_beyond_the_range_is_accepted(constraint: str | None) -> None:
    module = Stylizer(STYLE, weights="tiny", constraint=constraint)
    content = CONTENT.clone()
    content[:, 0, 0], content[:, 1, 1] = -9e-7, 1 + 9e-7
    with torch.no_grad():
        result = module(content)
    assert 0 <= result.min() <= result.max() <= 1
    content[:, 0, 0] = -3e-6
    with pytest.raises(ValueError, match=r"content must be finite and in \[0, 1\]"):
        module(content)
