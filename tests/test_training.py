"""Training and tuning end to end, tiny: they learn, resume exactly, and stop on divergence."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_optimizer
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fastfcs.cli import cli
from fastfcs.constraints import Photoreal, named
from fastfcs.images import list_images
from fastfcs.losses import relative_style_loss
from fastfcs.network import ForwardMaps, UnrolledSolver, load_solver, save_solver
from fastfcs.refinement import Refinement
from fastfcs.training import Diverged, descent, preset, train, tune, universal
from fastfcs.training.data import random_crop, read, targets, whole
from fastfcs.training.distillation import distil
from fastfcs.training.gradient_alignment import gradient_mismatch
from fastfcs.training.loop import descend
from fastfcs.training.objective import batch_loss, batch_terms
from fastfcs.training.pack import from_folders, read_pack, write_pack
from fastfcs.training.soap import SOAP
from fastfcs.vgg import STYLE_LAYERS, VGG19, load_vgg19


@pytest.fixture
def folders(tmp_path: Path, photo) -> tuple[Path, Path]:
    """Crops of package photos as contents and styles."""
    for name, kind in (("rocket", "content"), ("coffee", "style")):
        (tmp_path / kind).mkdir()
        pixels = (photo(name, 96)[0] * 255).byte().permute(1, 2, 0).numpy()
        for k in range(4):
            Image.fromarray(pixels[4 * k :]).save(tmp_path / kind / f"{k}.png")
    return tmp_path / "content", tmp_path / "style"


def _tiny(
    updates: int = 2,
    channels: tuple[int, ...] = (8, 8, 8),
    residual: tuple[int, ...] | None = None,
) -> UnrolledSolver:
    return UnrolledSolver(updates, channels, residual)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal, "UnrolledSolver", _tiny)


OPTIONS = {"batch": 2, "size": 32, "holdout": 1, "preview_every": 6, "lr": 3e-3, "distil_steps": 4}


def test_learns_and_writes_what_it_says(folders, tiny, tmp_path: Path, capsys) -> None:
    content, style = folders
    out = tmp_path / "w.safetensors"
    train(content, [style], out, steps=100, **OPTIONS)
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if "content" in line]
    assert [line[0] for line in lines] == ["50/100", "100/100"]
    assert float(lines[1][-1]) < float(lines[0][-1])  # the style loss fell
    assert load_solver(out).architecture == {"updates": 2, "channels": [8, 8, 8]}
    with Image.open(tmp_path / "w.preview.png") as sheet:
        assert sheet.width > sheet.height / 2
    assert not list(tmp_path.glob("*.part"))


def _unexplained(maps: ForwardMaps, images: torch.Tensor, vgg: VGG19) -> list[float]:
    """What linear regression on h_l leaves of the first four components of the l-th style layer."""
    shares = []
    with torch.no_grad():
        for h, layer in zip(maps(images)[0], STYLE_LAYERS, strict=False):
            a, b = (x.transpose(0, 1).flatten(1).T.double() for x in (h, vgg(images)[layer]))
            b = torch.linalg.svd(b - b.mean(0), full_matrices=False).U[:, :4]
            shares.append((b - a @ torch.linalg.lstsq(a, b).solution).square().mean() * len(b))
    return [float(share) for share in shares]


def test_distillation_teaches_forward_maps_what_vgg_sees(folders, tiny) -> None:
    content, style = (list_images(folder) for folder in folders)
    torch.manual_seed(0)
    vgg, solver = load_vgg19(), _tiny(channels=(16, 16, 16))
    images = torch.stack([random_crop(p, 32, random.Random(1)) for p in content + style])
    before: list[float] = []

    def teach(maps: ForwardMaps) -> None:
        before.extend(_unexplained(maps, images, vgg))
        distil(
            maps,
            vgg,
            [content, style],
            sizes=[32],
            steps=150,
            seed=0,
            precision="float32",
            device="cpu",
            shown=False,
        )

    solver.initialise(images[:4], images[4:], teach)
    after = _unexplained(solver.forward_maps, images, vgg)
    assert all(b < 0.95 * a for a, b in zip(before, after, strict=True)), (before, after)


def test_channels_of_a_new_network(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    out = tmp_path / "w.safetensors"
    train(content, [style], out, steps=1, channels=(8, 12), residual=(0, 2), **OPTIONS)
    wanted = {"updates": 2, "channels": [8, 12], "residual": [0, 2]}
    assert load_solver(out).architecture == wanted


def test_resumes_exactly(folders, tiny, tmp_path: Path, monkeypatch) -> None:
    content, style = folders
    whole = train(content, [style], tmp_path / "whole.safetensors", steps=12, **OPTIONS)

    class Cut(Exception):
        pass

    real = universal.batch_terms
    calls = 0

    def cut(*args):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Cut
        return real(*args)

    monkeypatch.setattr(universal, "batch_terms", cut)
    with pytest.raises(Cut):
        train(content, [style], tmp_path / "cut.safetensors", steps=12, **OPTIONS)
    assert calls == 9
    resumed = train(content, [style], tmp_path / "cut.safetensors", steps=12, **OPTIONS)
    assert calls == 9 + 6  # from the checkpoint of step 6
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_refuses_the_checkpoint_of_another_run(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    out = tmp_path / "w.safetensors"
    train(content, [style], out, steps=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"a run with seed 0, not 1; remove it to start anew"):
        train(content, [style], out, steps=2, seed=1, **OPTIONS)
    (tmp_path / "w.checkpoint.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"is not a checkpoint of this network"):
        train(content, [style], out, steps=2, **OPTIONS)
    (content / "0.png").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"0\.png cannot be read as a picture"):
        random_crop(content / "0.png", 32, random.Random(0))


def test_divergence_keeps_the_last_checkpoint(folders, tiny, tmp_path, monkeypatch) -> None:
    content, style = folders
    real, calls = universal.batch_terms, 0

    def poisoned(*args):
        nonlocal calls
        calls += 1
        content, style = real(*args)
        return (content * float("nan") if calls == 8 else content), style

    monkeypatch.setattr(universal, "batch_terms", poisoned)
    with pytest.raises(Diverged, match=r"step 7: the loss is nan .* last good state"):
        train(content, [style], tmp_path / "w.safetensors", steps=12, **OPTIONS)
    with safe_open(tmp_path / "w.checkpoint.safetensors", "pt") as file:
        assert file.metadata()["step"] == "6"
        assert all(torch.isfinite(file.get_tensor(k)).all() for k in file.keys())  # noqa: SIM118


def test_tune_changes_only_the_statistics_and_lowers_the_loss(folders, tiny, tmp_path) -> None:
    content, style = folders
    weights = tmp_path / "w.safetensors"
    train(content, [style], weights, steps=40, **OPTIONS)
    before = weights.read_bytes()
    out = tmp_path / "p.safetensors"
    options = {"weights": weights, "batch": 2, "size": 32}
    result = tune(style / "0.png", content, out, steps=40, **options)
    assert weights.read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("p.*")) == ["p.safetensors"]

    solver, vgg = load_solver(weights), load_vgg19()
    picture = whole(style / "0.png", 512)
    photo = targets(vgg, whole(content / "0.png", 32))
    own = {key: result[key] for key in solver.shapes}
    with torch.no_grad():
        wanted = targets(vgg, picture)
        plain, tuned = (
            batch_loss(vgg, solver(photo[0].image[None], h), photo, wanted, 20.0)[0]
            for h in (solver.statistics(picture), own)
        )
        behind = Refinement().statistics(picture)
    assert tuned < 0.98 * plain
    assert set(result) == {f"{t}.{level}" for t in range(2) for level in range(3)} | set(behind)
    assert set(behind) == {f"vgg.{level}" for level in range(4)}
    for key, h in behind.items():
        torch.testing.assert_close(result[key], h)
    for matrix in result.values():
        assert torch.equal(matrix, matrix.mT)
        assert torch.linalg.eigvalsh(matrix).min() > -1e-5 * matrix.abs().max()


def test_tuning_starts_with_a_variance_in_every_direction_and_next_to_the_style() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    h = rows.mT @ rows  # of rank 3
    factor = preset._factor(h)
    torch.testing.assert_close(factor @ factor.mT, h + 0.01 * h.trace() / 8 * torch.eye(8))


def test_crops_depend_on_the_seed_alone(folders) -> None:
    path = folders[0] / "0.png"
    crops = [random_crop(path, 32, random.Random(seed)) for seed in (1, 1, 2)]
    assert crops[0].shape == (3, 32, 32)
    assert crops[0].min() >= 0
    assert crops[0].max() <= 1
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


def test_refusals(folders, tmp_path: Path) -> None:
    content, style = folders
    (tmp_path / "empty").mkdir()
    for arguments, sentence in [
        ({"size": 20}, "size must be a multiple of 8"),
        ({"size": [96, 20]}, "size must be a multiple of 8"),
        ({"photoreal": 1.5}, r"photoreal must be a share of the steps, in \[0, 1\], not 1.5"),
        ({"steps": 0}, "steps and batch must be at least 1"),
        ({"holdout": 4}, "holdout of 4 leaves no picture"),
        ({"channels": (8, 4)}, r"channels must be at least 5 on every level, not \(8, 4\)"),
        (
            {"channels": (8, 8), "weights": "universal"},
            "channels and residual are those of the weights",
        ),
        (
            {"residual": (1, 1, 1, 1), "weights": "universal"},
            "channels and residual are those of the weights",
        ),
        ({"style": [tmp_path / "empty"]}, "folder must contain pictures"),
    ]:
        options = {"style": [style], "steps": 1, **arguments}
        with pytest.raises(ValueError, match=sentence):
            train(content, out=tmp_path / "w.safetensors", **options)


def _curve(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [e.value for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_two_processes_have_the_curve_of_one(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    torch.manual_seed(0)
    start = _tiny()
    # Or gradients are of rounding's size.
    start.initialise(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32) ** 3)
    save_solver(start, tmp_path / "start.safetensors", {})
    options = ["--content", content, "--style", style, "--weights", tmp_path / "start.safetensors"]
    options += ["--steps", 4, "--batch", 4, "--size", 32, "--size", 48, "--holdout", 1]
    options += ["--photoreal", 0.5, "--alignment-weight", 1]
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, "-m", *launcher, "fastfcs", "train", *options]
        command += ["-o", tmp_path / f"{name}.safetensors"]
        command += ["--tensorboard", tmp_path / name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(list(map(str, command)), check=True, env=environment)
    one, two = _curve(tmp_path / "one"), _curve(tmp_path / "two")
    assert one.keys() == {"content", "style", "rate", "norm", "pictures a second"}
    for name in ("content", "style", "norm"):
        assert len(set(one[name])) == 4
        assert two[name] == pytest.approx(one[name], rel=2e-3)
    paths = [tmp_path / f"{name}.safetensors" for name in ("start", "one", "two")]
    begun, a, b = (torch.cat([p.flatten() for p in load_solver(f).parameters()]) for f in paths)
    assert (a - b).norm() < 0.2 * (a - begun).norm()  # SOAP divides rounding by rounding


def test_half_precision_learns_alike(folders, tiny, tmp_path: Path, capsys) -> None:
    content, style = folders
    found = []
    for precision in ("float32", "bfloat16"):
        out = tmp_path / f"{precision}.safetensors"
        train(content, [style], out, steps=30, precision=precision, **OPTIONS)
        found.append(float(capsys.readouterr().err.split()[-1]))
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_what_is_written_is_the_average(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    train(content, [style], tmp_path / "w.safetensors", steps=20, **OPTIONS)
    written = load_solver(tmp_path / "w.safetensors").state_dict()
    last = load_file(tmp_path / "w.checkpoint.safetensors")
    for name, value in written.items():
        assert torch.equal(value, last[f"parameter/average of {name}"].half().float())
        assert not torch.equal(value, last[f"parameter/{name}"].half().float())


def test_a_share_of_the_steps_is_projected(folders, tiny, tmp_path: Path, monkeypatch) -> None:
    content, style = folders
    cutoffs = []

    class Recorded(Photoreal):
        def __init__(self, content: torch.Tensor, cutoff: float) -> None:
            cutoffs.append(cutoff)
            super().__init__(content, cutoff)

    monkeypatch.setattr(named, "Photoreal", Recorded)
    out = tmp_path / "w.safetensors"
    train(content, [style], out, steps=12, photoreal=0.5, **OPTIONS)
    assert 3 <= len(cutoffs) <= 9
    assert all(0.003 <= c <= 0.1 for c in cutoffs)
    assert len(set(cutoffs)) == len(cutoffs)
    also = tmp_path / "structure.safetensors"
    train(content, [style], also, steps=12, photoreal=0.5, structure_weight=5, **OPTIONS)
    a, b = (load_solver(path).state_dict() for path in (out, also))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_noise_weight_lowers_the_amplification_of_noise(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    picture = torch.rand(1, 3, 48, 48)
    noisy = picture + torch.randn_like(picture) / 255

    def amplification(name: str, **options: float) -> float:
        options = {**OPTIONS, "steps": 30, **options}
        solver = train(content, [style], tmp_path / name, **options).requires_grad_(False)
        statistics = solver.statistics(whole(style / "0.png", 64))
        change = solver(noisy, statistics) - solver(picture, statistics)
        return float(change.norm() / (noisy - picture).norm())

    without = amplification("without.safetensors")
    assert amplification("with.safetensors", noise_weight=1000.0) < 0.9 * without


def test_blindness_is_the_angle_between_the_gradients(folders) -> None:
    torch.manual_seed(0)
    maps = _tiny(channels=(8, 12, 16)).forward_maps
    x, content, style = torch.rand(3, 2, 3, 32, 32)
    output = x.requires_grad_()

    def gram_of(image: torch.Tensor, level: int) -> torch.Tensor:
        return torch.einsum("bcij,bdij->bcd", *2 * [maps(image)[0][level]]) / (32 >> level) ** 2

    for level in range(3):
        grams = (gram_of(image, level) for image in (output, style, content))
        own = relative_style_loss(*grams).mean()
        for term, wanted in ((own, 0.0), (-3 * own, 2.0)):
            found = gradient_mismatch(maps, level, term, output, content, style)
            assert found.item() == pytest.approx(wanted, abs=1e-4)


def test_forward_maps_learn_to_see(folders, tiny, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vgg, maps = load_vgg19(), _tiny().forward_maps
    content, style = (whole(list_images(folder)[0], 48) for folder in folders)
    (shown,), (wanted,) = (targets(vgg, picture) for picture in (content, style))
    output = content.clone().requires_grad_()
    terms = batch_terms(vgg, output, [shown], [wanted])[1]
    optimizer = torch.optim.Adam(maps.parameters(), lr=0.01)
    angles = []
    for _ in range(40):
        angle = sum(gradient_mismatch(maps, k, terms[k], output, content, style) for k in range(3))
        optimizer.zero_grad()
        angle.backward()
        optimizer.step()
        angles.append(angle.item())
    assert angles[-1] < 0.8 * angles[0]


def test_alignment_weight_is_part_of_the_loss(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    trained = [
        train(
            content, [style], tmp_path / f"{w}.safetensors", steps=3, alignment_weight=w, **OPTIONS
        )
        for w in (0.0, 1.0)
    ]
    a, b = (solver.forward_maps.state_dict() for solver in trained)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_soap_is_the_published_optimizer() -> None:
    """Parameters of one shape, which are stacked, against each by itself."""
    shapes = [(6, 4, 3, 3), (6, 4, 3, 3), (5,), (6, 6), (5,)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    ours[0].data = ours[0].data.contiguous(memory_format=torch.channels_last)
    optimizer = SOAP(ours)
    options = {"betas": (0.9, 0.95), "weight_decay": 0.0, "precondition_frequency": 10}
    reference = pytorch_optimizer.SOAP(theirs, lr=1.0, **options)
    for step in range(25):
        for a, b in zip(ours, theirs, strict=True):
            scale = torch.linspace(0.1, 3, b.shape[-1])
            a.grad = b.grad = torch.randn(b.shape) * scale + b.detach()
        reference.param_groups[0]["lr"] = rate = 0.01 + 0.001 * step
        optimizer.step(rate)
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert (b - 1).abs().max() > 0.1
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class _Time:
    """A clock that goes on by a second at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_rate_follows_the_clock_and_a_resumed_run_has_the_rest_of_the_minutes(
    tmp_path: Path, monkeypatch
) -> None:
    clock = _Time()
    monkeypatch.setattr(descent, "perf_counter", clock)
    rates: list[float] = []

    def run(minutes: float, x: nn.Parameter) -> int:
        def loss(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return x.square().sum(), {}

        def record(step: int, numbers: dict[str, float]) -> None:
            rates.append(numbers["rate"])

        checkpoint = tmp_path / "checkpoint.safetensors"
        options = {"facts": {}, "steps": None, "lr": 1.0, "every": 10**6, "record": record}
        return descend({"x": x}, loss, checkpoint, minutes=minutes, **options)

    done = run(20, nn.Parameter(torch.ones(3)))
    assert 1150 < clock.now < 1210
    assert done == len(rates) > 150
    assert rates[40] == 1 > rates[done // 2] > rates[-1] > 0
    assert rates[-1] < 0.05
    clock.now = 0
    assert run(40, nn.Parameter(torch.ones(3))) == len(rates) > done
    assert 1150 < clock.now < 1210  # of the forty minutes twenty were left
    assert 0.6 < rates[done] < 0.8


@pytest.fixture
def pack(folders, tmp_path: Path) -> Path:
    content, style = folders
    (tmp_path / "pairs").mkdir()
    for kind, folder in (("content", content), ("style", style)):
        shutil.copy(folder / "0.png", tmp_path / "pairs" / f"{kind}01.png")
    command = ["train", "--content", content, "--style", style, "--style", content]
    command += ["--holdout", 1, "--pairs", tmp_path / "pairs", "--pack", tmp_path / "all.pack"]
    result = CliRunner().invoke(cli, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "3 photos and 1 held out, 4 paintings, 1 pairs" in result.output
    return tmp_path / "all.pack"


def test_a_pack_holds_what_its_folders_do(folders, pack: Path) -> None:
    content, style = folders
    found = read_pack(pack, "cpu")
    assert found.names == ["content", "style", "content"]
    assert [len(f) for f in (found.content, *found.styles, found.held)] == [3, 4, 3, 1]
    assert [id(p) for p in found.styles[1]] == [id(p) for p in found.content]
    assert [id(p) for p in found.styles[0]] == [id(p) for p in found.paintings]
    ((name, *both),) = found.pairs
    assert name == "01"
    for pixels, path in [
        *zip(found.content, list_images(content), strict=False),
        *zip(found.held, list_images(content)[3:], strict=True),
        *zip(both, (content / "0.png", style / "0.png"), strict=True),
    ]:
        original = read(path)
        assert pixels.shape == original.shape
        assert (pixels.float() - original.float()).square().mean() < 65  # 30 dB


def test_a_pack_is_as_small_as_it_must_be(folders, pack: Path, tmp_path: Path) -> None:
    content, style = folders
    pictures = from_folders(content, [style], 1)
    limit = 2**16 + 15000
    assert "quality 95" not in write_pack(pictures, tmp_path / "small.pack", limit)
    assert (tmp_path / "small.pack").stat().st_size <= limit < pack.stat().st_size + 2**16
    with pytest.raises(ValueError, match=r"pack must hold its 8 pictures in 0\.0625 MiB, which"):
        write_pack(pictures, tmp_path / "none.pack", 2**16)
    assert not (tmp_path / "none.pack").exists()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="pack must be a file that --pack wrote, got "):
        read_pack(content / "0.png", "cpu")


def test_what_does_not_go_with_a_pack_is_refused(folders) -> None:
    both = ["--content", folders[0], "--style", folders[1]]
    for arguments, sentence in [
        (["--style", folders[1]], "--content must be given with --style, or --pack without either"),
        (both[:2], "--style must be given with --content"),
        (both, "--output must be given"),
        (
            [*both, "--pack", "p", "-o", "w"],
            "--output must be left out where folders become a pack",
        ),
        (
            [*both, "--pairs", folders[0]],
            "--pairs must be given with --content, --style and --pack",
        ),
        (
            ["--pack", "p", "--holdout", 3],
            "--holdout must be given where the pack is written, not with the pack",
        ),
        (
            ["--pack", folders[0] / "0.png", "-o", "w"],
            f"pack must be a file that --pack wrote, got {folders[0] / '0.png'}",
        ),
    ]:
        result = CliRunner().invoke(cli, ["train", *map(str, arguments)])
        assert (result.exit_code, result.stderr) == (2, sentence + "\n")


def test_training_on_a_pack_has_the_losses_of_its_folders(
    folders, tiny, pack: Path, tmp_path: Path, capsys
) -> None:
    content, style = folders
    save_solver(_tiny(), tmp_path / "start.safetensors", {})
    options = {**OPTIONS, "weights": tmp_path / "start.safetensors", "steps": 5, "lr": 0.05}
    train(content, [style, content], tmp_path / "folders.safetensors", **options)
    train(None, [], tmp_path / "w.safetensors", pack=pack, scores=1, **options)
    lines = capsys.readouterr().err.splitlines()
    expected, found = ([float(word) for word in line.split()[2::2]] for line in lines)
    assert found == pytest.approx(expected, rel=0.03)

    scores = json.loads((tmp_path / "w.scores.json").read_text())
    before, after = (scores[when]["held out"] for when in ("before", "after"))
    assert before["results"] == after["results"] == 4
    assert after["loss"] == pytest.approx(after["content"] + 20 * after["style"])
    assert 0 < after["style"] != before["style"]
    assert scores["after"]["pairs"]["medians"] == scores["after"]["pairs"]["01"]


def test_the_repository_leaves_room_for_a_pack_in_64_mib() -> None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    files = [root / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    assert sum(file.stat().st_size for file in files if file.is_file()) < 32 * 2**20
