"""fastfcs evaluate: every measure against an independent computation, and whole runs."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pictures import LUMA
from PIL import Image
from scipy.ndimage import sobel
from skimage.metrics import structural_similarity
from torch import Tensor

from fastfcs import MattingLaplacian, images, losses, presets
from fastfcs.cli import cli
from fastfcs.constraints.photoreal import CUTOFF
from fastfcs.evaluation import compare, cost, iterations, methods, metrics, summary
from fastfcs.evaluation.metrics import Measure
from fastfcs.evaluation.pairs import Pair, find_pairs, pair_up
from fastfcs.evaluation.rows import Row
from fastfcs.network import UnrolledSolver
from fastfcs.regions import COLOURS, Regions, read_regions, resize
from fastfcs.stylizer import mirrored
from fastfcs.vgg import STYLE_LAYERS, VGG19, load_vgg19
from fastfcs.weights import load_solver, save_solver

Photo = Callable[[str, int], Tensor]
W, H = 48, 40


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    """VGG-19 with few channels and random weights, which tests as well and runs faster."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastfcs.vgg._BLOCKS", ((8, 8), (8, 8), (8, 8, 8, 8), (16, 16, 16, 16)))
        return VGG19().requires_grad_(False).eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: VGG19) -> Path:
    """The working folder: two pairs, one with masks, external results, and weights."""
    monkeypatch.chdir(tmp_path)
    for module in (compare, methods, iterations):
        monkeypatch.setattr(module, "load_vgg19", lambda: vgg)
    rng = np.random.default_rng(0)
    (tmp_path / "pairs").mkdir()
    for name in ("content01", "style01", "content02", "style02", "theirs01", "theirs02"):
        small = rng.integers(0, 256, (H // 8, W // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((W, H)).save(f"pairs/{name}.png")
    for name, split in (("content02", 16), ("style02", 32)):
        write_mask(Path(f"pairs/{name}_mask.png"), {"blue": split, "white": W - split})
    solver = UnrolledSolver(updates=1, channels=(8,))
    solver.initialise(torch.rand(1, 3, H, W), torch.rand(1, 3, H, W) / 2)
    save_solver(solver, Path("w.safetensors"), {"style weight": "7"})
    return tmp_path


def write_mask(path: Path, widths: dict[str, int], height: int = H) -> None:
    """Vertical stripes of colours."""
    stripes = [np.tile(np.array(COLOURS[c]) * 255, (height, w, 1)) for c, w in widths.items()]
    Image.fromarray(np.concatenate(stripes, 1).round().astype(np.uint8)).save(path)


def run(*args: str, code: int = 0) -> Result:
    command = ["evaluate", *args, "--weights", "w.safetensors", "--device", "cpu", "-o", "out"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == code, (result.output, result.exception)
    return result


# Regions


def test_regions_are_the_flat_colours_of_both(tmp_path: Path) -> None:
    content, style = tmp_path / "a.png", tmp_path / "b.png"
    write_mask(content, {"black": 40, "white": 30, "green": 20})
    write_mask(style, {"white": 25, "black": 25, "red": 10})
    for path in (content, style):  # blurred borders: between black and white there is grey
        image = Image.open(path)
        smaller = image.resize((image.width * 4 // 5, 32), Image.Resampling.BICUBIC)
        smaller.resize(image.size, Image.Resampling.BICUBIC).save(path)
    regions = read_regions(content, style)
    assert regions.colours == ("black", "white")
    assert (regions.content.shape, regions.style.shape) == ((2, H, 90), (2, H, 60))
    # Every pixel is in the region of its colour; green and red form no region.
    np.testing.assert_array_equal(regions.content[0, :, :40], 1)
    np.testing.assert_array_equal(regions.content[1, :, 40:70], 1)
    np.testing.assert_array_equal(regions.content.sum((1, 2)), [40 * H, 30 * H])
    np.testing.assert_array_equal(regions.style[1, :, :25], 1)


def test_grey_counts_where_it_is_flat(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", {"black": 20, "grey": 8, "light blue": 20})
    regions = read_regions(tmp_path / "a.png", tmp_path / "a.png")
    assert regions.colours == ("black", "grey", "light blue")
    np.testing.assert_array_equal(regions.content.sum(0), 1)


def test_masks_without_a_common_colour_raise(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", {"black": 20})
    write_mask(tmp_path / "b.png", {"white": 20, "red": 20})
    with pytest.raises(ValueError, match=r"^masks .*black.*white, red"):
        read_regions(tmp_path / "a.png", tmp_path / "b.png")


def test_an_unknown_flat_colour_raises(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", {"blue": 20, "green": 20})
    pixels = np.array(Image.open(tmp_path / "a.png").convert("RGB"))
    pixels[:, 20:] = (0, 128, 0)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"^masks .*\(0, 128, 0\)"):
        read_regions(tmp_path / "a.png", tmp_path / "b.png")


def test_resized_masks_keep_their_area() -> None:
    masks = torch.zeros(2, 24, 32)
    masks[0, :, :10], masks[1, :, 10:] = 1, 1
    small = resize(masks, (6, 8))
    np.testing.assert_allclose(small[:, 0], [[1, 1, 0.5, 0, 0, 0, 0, 0], [0, 0, 0.5, *[1] * 5]])


# Measures


def test_gradient_ssim_is_scikit_images(photo: Photo) -> None:
    image = photo("coffee", 120).float()
    other = (image + 0.1 * torch.randn_like(image)).clamp(0, 1)
    grey = [(x[0] * LUMA).sum(0).double().numpy() for x in (image, other)]
    a, b = (np.hypot(sobel(x, 0), sobel(x, 1)) / 4 for x in grey)
    expected = structural_similarity(a, b, data_range=1.0)
    assert losses.gradient_ssim(image, other).item() == pytest.approx(expected, abs=1e-5)
    assert losses.gradient_ssim(image.double(), other.double()).item() == pytest.approx(expected)
    assert 0.1 < expected < 0.9
    assert losses.gradient_ssim(image, image).item() == pytest.approx(1)


def test_measures(photo: Photo, vgg: VGG19) -> None:
    content, style = photo("chelsea", 64).float(), photo("coffee", 72).float()
    image = content.lerp(torch.rand_like(content), 0.3)
    measures = Measure(Pair("", content, style), vgg)(image)
    terms, unchanged = [], []
    for layer in STYLE_LAYERS:  # the formula in float64
        g, h, g_content = (
            f.flatten(2)[0] @ f.flatten(2)[0].T / f[0, 0].numel()
            for f in (vgg(x)[layer].double() for x in (image, style, content))
        )
        terms.append(((g - h).norm() / h.norm()) ** 2)
        unchanged.append(((g_content - h).norm() / h.norm()) ** 2)
    assert measures["gram"] == pytest.approx(float(sum(terms) / 4), rel=1e-4)
    assert measures["ratio"] == pytest.approx(float(sum(terms) / sum(unchanged)), rel=1e-4)
    energy = MattingLaplacian(content.double()).energy(image.double()).item() / content.numel()
    assert measures["energy"] == pytest.approx(energy, rel=1e-3)
    assert (measures["region_gram"], measures["regions"], measures["lpips"]) == (None, {}, None)


def test_distance_by_region(vgg: VGG19) -> None:
    """The result is the style with its halves swapped: only the right masks match per region."""
    left, right = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64) ** 4
    style = torch.cat([left, right], 3)
    swapped = torch.cat([right, left], 3)
    halves = torch.zeros(2, 64, 128)
    halves[0, :, :64], halves[1, :, 64:] = 1, 1
    colours = ("blue", "white")

    right_way = Measure(Pair("", swapped, style, Regions(colours, halves.flip(0), halves)), vgg)
    wrong_way = Measure(Pair("", swapped, style, Regions(colours, halves, halves)), vgg)
    matched, mismatched = right_way(swapped), wrong_way(swapped)
    assert matched["region_gram"] < 0.02  # not 0, since receptive fields cross the border
    assert mismatched["region_gram"] > 10 * matched["region_gram"]
    assert mismatched["gram"] == matched["gram"] < 0.02
    assert list(mismatched["regions"]) == ["blue", "white"]

    quarter = torch.zeros(2, 64, 128)
    quarter[0, :, :32], quarter[1, :, 32:] = 1, 1
    uneven = Measure(Pair("", swapped, style, Regions(colours, quarter, halves)), vgg)(swapped)
    blue, white = uneven["regions"].values()
    assert uneven["region_gram"] == pytest.approx(blue / 4 + 3 * white / 4)

    whole = torch.ones(1, 64, 128)
    one = Measure(Pair("", swapped, style, Regions(("red",), whole, whole)), vgg)(swapped.sqrt())
    assert one["region_gram"] == pytest.approx(one["gram"], rel=1e-4)


def test_lpips_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(RuntimeError, match="LPIPS is left out: `pip install lpips`"):
        metrics.load_lpips()

    class Net(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().mean().view(1, 1, 1, 1)

    fake = SimpleNamespace(LPIPS=lambda net, verbose: Net())
    monkeypatch.setitem(sys.modules, "lpips", fake)
    zeros = torch.zeros(1, 3, 8, 8)
    assert metrics.load_lpips()(zeros, zeros + 0.5) == pytest.approx(1)  # of images in [-1, 1]

    def offline(net: str, verbose: bool) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(fake, "LPIPS", offline)
    with pytest.raises(RuntimeError, match="AlexNet's weights are not available: no network"):
        metrics.load_lpips()


def test_cost() -> None:
    pages = np.ones(2**20)  # resident before the call, so not counted
    result, seconds, megabytes = cost.measure_cost(
        lambda: np.ones(8 * 2**20)[:1] + pages[:1], "cpu"
    )
    assert (result.item(), seconds > 0) == (2, True)
    assert megabytes is not None
    assert 60 < megabytes < 75  # 8 Mi doubles are 67 MB


def test_medians_and_their_intervals() -> None:
    values = np.random.default_rng(1).permutation(101).astype(float)
    median = summary.median(values.tolist())
    assert (median.value, median.pairs) == (50, 101)
    # The binomial interval of the median's rank, 50 +- 1.96 sqrt(101) / 2.
    assert median.low == pytest.approx(40.2, abs=2)
    assert median.high == pytest.approx(59.8, abs=2)
    assert summary.median([3.0]) == (3, 3, 3, 1)


# Pairs and methods


def test_pairs(folder: Path) -> None:
    pairs = find_pairs(folder / "pairs")
    assert [(p.name, p.content.name, p.style.name) for p in pairs] == [
        ("01", "content01.png", "style01.png"),
        ("02", "content02.png", "style02.png"),
    ]
    assert pairs[0].masks is None
    loaded = pairs[1].load(size=24)
    assert loaded.content.shape == (1, 3, 20, 24)
    assert loaded.regions is not None
    assert loaded.regions.colours == ("blue", "white")
    np.testing.assert_allclose(loaded.regions.content[0, 0], [1] * 8 + [0] * 16)

    off_by_one = Image.open(folder / "pairs/style02_mask.png").crop((0, 0, 48, 39))
    off_by_one.save(folder / "pairs/style02_mask.png")
    assert pairs[1].load().regions.style.shape[1:] == (40, 48)  # type: ignore[union-attr]
    write_mask(folder / "pairs/style02_mask.png", {"blue": 20})
    with pytest.raises(ValueError, match=r"style02_mask.png must have its picture's size, 48 x 40"):
        pairs[1].load()
    (folder / "pairs/style02_mask.png").unlink()
    with pytest.raises(ValueError, match="both have a mask or neither"):
        find_pairs(folder / "pairs")
    (folder / "pairs/style01.png").unlink()
    with pytest.raises(ValueError, match="must have a style01 beside it"):
        find_pairs(folder / "pairs")
    with pytest.raises(ValueError, match=r"must contain pairs content01.png"):
        find_pairs(folder)


def test_photos_are_paired_with_styles_cyclically(folder: Path) -> None:
    for subfolder, names in {"photos": "abcd", "paintings": "xy"}.items():
        Path(subfolder).mkdir()
        for name in names:
            Image.new("RGB", (16, 16)).save(f"{subfolder}/{name}.png")
    photos, paintings = folder / "photos", folder / "paintings"

    def paired(*args: Any) -> list[str]:
        return [pair.name + pair.style.stem for pair in pair_up(*args)]

    assert paired(photos, [paintings], None) == ["ax", "by", "cx", "dy"]
    assert paired(photos, [paintings], 2) == ["cx", "dy"]
    # Never with itself, and never with a photo used for training.
    assert paired(photos, [photos], 3) == ["bc", "cd", "db"]
    with pytest.raises(ValueError, match=r"a picture other than .*d.png"):
        pair_up(photos, [photos], 1)


def test_names_of_methods(folder: Path) -> None:
    selected = methods.select_methods(
        ["content", "photoreal:0.1,0.03", "photoreal", "theirs=pairs/x*.png"],
        weights="w.safetensors",
    )
    assert [m.name for m in selected] == [
        "content",
        "photoreal:0.1",
        "photoreal:0.03",
        "photoreal",
        "theirs",
    ]
    assert [m.cutoff for m in selected] == [None, 0.1, 0.03, CUTOFF, None]
    assert selected[4].file("07") == Path("pairs/x07.png")
    for names, message in {
        ("wct",): "method must be one of content, artistic, .* got 'wct'",
        ("gatys:3",): "got 'gatys:3'",
        ("photoreal:high",): "must have numbers after the colon",
        ("photoreal:10",): "^cutoff ",
        ("content", "content"): "got 'content' twice",
        ("a=x.png",): r"with a \* for",
        ("style=x*.png",): "with a new NAME",
        ("../a=x*.png",): "with a new NAME",
    }.items():
        with pytest.raises(ValueError, match=message):
            methods.select_methods(names, weights="w.safetensors")


def test_options_of_iterative_solvers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(content: Tensor, style: Tensor, **options: Any) -> Tensor:
        calls.append(options)
        return content

    monkeypatch.setattr("fastfcs.solvers.solve", fake)
    pair = find_pairs(folder / "pairs")[1].load()
    for method in methods.select_methods(["gatys", "luan", "projected:0.05"], steps=3):
        assert method.apply(pair) is pair.content
    gatys, luan, projected = calls
    assert all(call["steps"] == 3 for call in calls)
    assert (gatys["method"], "regions" in gatys, projected["method"]) == ("lbfgs", False, "adam")
    assert luan["matting_weight"] > 0
    assert luan["regions"][0] is pair.regions.content  # type: ignore[union-attr]
    assert (projected["constraint"], projected["cutoff"]) == ("photoreal", 0.05)


# Whole runs

METHODS = [
    f"--method={name}"
    for name in ("artistic", "photoreal:0.5,2", "theirs=pairs/theirs*.png", "content")
]


def test_a_run(folder: Path) -> None:
    output = run("pairs", *METHODS).output
    assert "theirs" in output.split("medians")[1]
    with open("out/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["01"] * 5 + ["02"] * 5
    by_name = {(row["pair"], row["method"]): row for row in rows}
    assert by_name["02", "content"]["ssim"] == "1.0"
    assert by_name["01", "artistic"]["regions"] == by_name["01", "artistic"]["region_gram"] == ""
    assert re.fullmatch(r"blue \S+; white \S+", by_name["02", "theirs"]["regions"])
    assert float(by_name["02", "artistic"]["seconds"]) > 0
    assert by_name["02", "theirs"]["seconds"] == ""

    report = json.loads(Path("out/report.json").read_text())
    assert report["notes"] == ["LPIPS is left out: `pip install lpips` adds it"]
    both = [float(by_name[pair, "artistic"]["gram"]) for pair in ("01", "02")]
    assert report["medians"]["artistic"]["gram"]["value"] == pytest.approx(np.mean(both))
    assert report["medians"]["artistic"]["region_gram"]["pairs"] == 1
    np.testing.assert_array_equal(
        np.asarray(Image.open("out/pairs/02/theirs.png")),
        np.asarray(Image.open("pairs/theirs02.png")),
    )

    page = Path("out/index.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all((folder / "out" / link).is_file() for link in links)
    assert len(links) == 2 * 6 + 3  # per pair the style and five methods; plot, CSV, JSON
    assert "http" not in page
    assert "<!-- " not in page
    assert Image.open("out/trade-off.png").width > 500


def test_an_interrupted_run_continues(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    call = Measure.__call__

    def counted(self: Measure, image: Tensor) -> dict[str, Any]:
        if len(measured) == 3:
            raise ValueError("power cut")
        measured.append(self._pair.name)
        return call(self, image)

    monkeypatch.setattr(Measure, "__call__", counted)
    assert "power cut" in run("pairs", *METHODS, code=2).output
    assert measured == ["01"] * 3
    measured.clear()
    assert "power cut" in run("pairs", *METHODS, code=2).output
    assert measured == ["01", "01", "02"]  # rows that exist are not measured again
    measured[:] = [""] * 4
    run("pairs", *METHODS)
    assert measured[4:] == ["02"] * 4
    report_before = Path("out/report.json").read_text()

    measured[:] = [""] * 4
    run("pairs", *METHODS)
    assert measured[4:] == []
    before, after = (json.loads(t) for t in (report_before, Path("out/report.json").read_text()))
    assert after["rows"] == before["rows"]

    Image.new("RGB", (W, H)).save("pairs/theirs01.png")  # only this result has changed
    run("pairs", *METHODS)
    assert measured[4:] == ["01"]
    run("pairs", *METHODS, "--size", "24")  # all have changed
    assert len(measured[4:]) == 11


def test_notes_report_missing_and_resized_results(folder: Path) -> None:
    Path("pairs/theirs01.png").unlink()
    Image.new("RGB", (20, 30)).save("pairs/theirs02.png")
    output = run("pairs", "--method=content", METHODS[2], "--size", "24").output
    assert "pictures reduced to a longer side of 24 pixels" in output
    assert "theirs: no result for pair 01" in output
    assert "theirs: 1 results resized to the content" in output
    assert images.read("out/pairs/02/theirs.png").size == (24, 20)
    result = run("pairs", "--method=theirs=nowhere/*.png", code=2)
    message = "method theirs must have a result for at least one pair, got no nowhere/*.png"
    assert message in result.output


def test_bad_options_are_one_sentence(folder: Path) -> None:
    for options, name in {
        ("--only=03",): "--only",
        ("--presets=pairs",): "--presets",
        ("--last=3",): "--last",
        ("--method=content", "--equivalent-iterations"): "--method",
    }.items():
        output = run("pairs", *options, code=2).output
        assert name in output
        assert output.count("\n") == 1


# Equivalent iterations


def test_equivalent_iterations(folder: Path, monkeypatch: pytest.MonkeyPatch, vgg: VGG19) -> None:
    options = ("pairs", "--equivalent-iterations", "--steps=5")
    output = run(*options).output
    report = json.loads(Path("out/iterations.json").read_text())
    assert f"{report['equivalent iterations']['value']:.3g}" in output
    assert (report["style weight"], report["iterations per scale"]) == (7, [0, 1, 2, 4, 5])
    for row in report["rows"]:
        assert row["curve"][4] < row["curve"][0]  # Adam descends
        counts = [0, 0, 1, 2, 4, 5]
        crossing = [k for k, loss in enumerate(row["curve"]) if loss <= row["network"]]
        k = crossing[0] if crossing else 5
        assert counts[k] <= row["iterations"] <= counts[min(k + 1, 5)]
    values = [row["iterations"] for row in report["rows"]]
    assert report["equivalent iterations"]["value"] == np.median(values)
    assert Image.open("out/iterations.png").width > 500

    monkeypatch.setattr("fastfcs.solvers.solve", None)  # both losses are cached
    run(*options)
    assert json.loads(Path("out/iterations.json").read_text()) == report


def test_the_refinement_comes_closer_to_the_style(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (compare, iterations):
        monkeypatch.setattr(module, "load_vgg19", load_vgg19)  # which the refinement approximates
    for name in ("content01", "style01"):  # so large that the style is not mirrored
        path = f"pairs/{name}.png"
        Image.open(path).resize((128, 96)).save(path)
    measured = []
    for refine in (("--no-refine",), ("--refine",)):
        run("pairs", "--only=01", "--method=artistic", *refine)
        report = json.loads(Path("out/report.json").read_text())
        assert report["refine"] is (refine == ("--refine",))
        run("pairs", "--only=01", "--equivalent-iterations", "--steps=1", *refine)
        iteration_report = json.loads(Path("out/iterations.json").read_text())
        gram = report["medians"]["artistic"]["gram"]["value"]
        loss = iteration_report["rows"][0]["network"]
        measured.append((gram, loss))
    (gram, loss), (refined_gram, refined_loss) = measured
    assert refined_gram < 0.65 * gram
    assert refined_loss < 0.75 * loss


def test_methods_that_make_photographs_are_refined_unless_one_asks_otherwise() -> None:
    names = ["artistic", "photoreal", "regional"]
    wanted = {None: [False, True, True], True: [True] * 3, False: [False] * 3}
    for refine, want in wanted.items():
        found = methods.select_methods(names, weights="tiny", refine=refine)
        assert ["refined" in method.dependencies for method in found] == want


def test_rows_are_read_back_from_json() -> None:
    row = Row("01", "a:1", "f", 4, 3, (5, 6), 0.5, None, 1, 1, [1], 2, 3, {"blue": 3}, 1, 0, None)
    values = json.loads(json.dumps(row.to_json()))
    assert Row.from_json(values) == row
    assert values["resized from"] == [5, 6]
    del values["resized from"], values["ssim"]
    with pytest.raises(KeyError, match="ssim"):
        Row.from_json(values)


def test_presets_replace_their_styles(folder: Path) -> None:
    """A preset of the picture itself changes nothing; one of another picture does."""
    options = ("pairs", "--equivalent-iterations", "--steps=2", "--presets=tuned")
    solver = load_solver("w.safetensors")
    losses = []
    for sources in (("style01", "style02"), ("style02", "style01")):
        for name, source in zip(("style01", "style02"), sources, strict=True):
            picture = images.read(f"pairs/{source}.png").pixels[None]
            header = {"style weight": "7", "brush": "1"}
            statistics = solver.statistics(mirrored(picture))
            presets.write([statistics], Path(f"tuned/{name}.safetensors"), header)
        run(*options)
        rows = json.loads(Path("out/iterations.json").read_text())["rows"]
        losses.append([row["network"] for row in rows])
    run("pairs", "--equivalent-iterations", "--steps=2")
    rows = json.loads(Path("out/iterations.json").read_text())["rows"]
    assert losses[0] == pytest.approx([row["network"] for row in rows])
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)


def test_a_preset_is_judged_by_the_loss_it_was_tuned_for(folder: Path) -> None:
    """The preset's style weight and brush apply to Adam's curve and to the network."""
    solver = load_solver("w.safetensors")
    options = ("pairs", "--only=01", "--equivalent-iterations", "--steps=1", "--presets=tuned")
    picture = images.read("pairs/style01.png").pixels[None]
    rows = []
    for style_weight, brush in ((7, 1), (14, 1), (7, 0.5)):
        header = {"style weight": str(style_weight), "brush": str(brush)}
        presets.write([solver.statistics(picture)], Path("tuned/style01.safetensors"), header)
        run(*options)
        rows += json.loads(Path("out/iterations.json").read_text())["rows"]
    first, weighted, small = rows
    for key in ("network", "curve"):
        assert np.all(np.array(weighted[key]) > 1.2 * np.array(first[key]))
        assert small[key] != pytest.approx(first[key], rel=1e-3)
    presets.write([solver.statistics(picture)], Path("tuned/style01.safetensors"), {})
    output = run(*options, code=2).output
    assert "must record the style weight of its training" in output


def test_the_loss_is_that_of_the_training(folder: Path, vgg: VGG19) -> None:
    from fastfcs.training.data import targets
    from fastfcs.training.objective import batch_loss

    pair = find_pairs(folder / "pairs")[0].load()
    image = pair.content.lerp(torch.rand_like(pair.content), 0.5)
    expected, _ = batch_loss(vgg, image, targets(vgg, pair.content), targets(vgg, pair.style), 7.0)
    total = iterations._loss(pair, image, vgg=vgg, style_weight=7.0)
    assert total == pytest.approx(expected.item(), rel=1e-4)


def test_crossings() -> None:
    counts = [0, 1, 2, 4]
    assert iterations._crossing(counts, [5, 3, 2, 1], 2.5) == (1.5, True)
    assert iterations._crossing(counts, [5, 3, 2, 1], 1.5) == (3, True)
    assert iterations._crossing(counts, [5, 3, 2, 1], 9) == (0, True)
    assert iterations._crossing(counts, [5, 3, 2, 1], 0.5) == (4, False)


def test_weights_must_record_their_style_weight(folder: Path) -> None:
    save_solver(UnrolledSolver(updates=1, channels=(8,)), Path("w.safetensors"), {})
    output = run("pairs", "--equivalent-iterations", code=2).output
    assert "must record the style weight of its training" in output
