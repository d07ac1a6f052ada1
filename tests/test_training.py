"""Training and tuning end to end, tiny: they learn, resume exactly, and stop on divergence."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastfcs import presets
from fastfcs.cli import cli
from fastfcs.constraints.registry import BetweenUpdates
from fastfcs.images import list_images
from fastfcs.losses import relative_style_loss
from fastfcs.network import ForwardMaps, UnrolledSolver
from fastfcs.pyramid import reductions
from fastfcs.refinement import Refinement
from fastfcs.statistics import Statistics
from fastfcs.stylizer import mirrored
from fastfcs.training import (
    Diverged,
    TrainConfig,
    Trainer,
    TuneConfig,
    loop,
    train,
    trainer,
    tune,
    tuning,
)
from fastfcs.training.data import random_crop, read_pixels, targets, whole_picture
from fastfcs.training.distillation import distil
from fastfcs.training.gradient_alignment import gradient_mismatch
from fastfcs.training.loop import descend
from fastfcs.training.objective import batch_loss, batch_terms
from fastfcs.training.pack import from_folders, read_pack, write_pack
from fastfcs.training.soap import SOAP
from fastfcs.vgg import STYLE_LAYERS, VGG19, load_vgg19
from fastfcs.weights import load_solver, save_solver


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
    monkeypatch.setattr(trainer, "UnrolledSolver", _tiny)


SETTINGS: dict[str, Any] = {
    "batch": 2,
    "size": 32,
    "holdout": 1,
    "preview_every": 6,
    "lr": 3e-3,
    "distil_steps": 4,
}


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(**{**SETTINGS, **settings})


@pytest.mark.slow
def test_learns_and_writes_weights_and_preview(folders, tiny, tmp_path: Path, capsys) -> None:
    content, style = folders
    out = tmp_path / "w.safetensors"
    train(content, [style], out, config(steps=100))
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if "content" in line]
    assert [line[0] for line in lines] == ["50/100", "100/100"]
    assert float(lines[1][-1]) < float(lines[0][-1])  # the style loss fell
    assert load_solver(out).architecture == {"updates": 2, "channels": [8, 8, 8]}
    with Image.open(tmp_path / "w.preview.png") as sheet:
        assert sheet.width > sheet.height / 2
    assert not list(tmp_path.glob("*.part"))


def _unexplained(maps: ForwardMaps, images: torch.Tensor, vgg: VGG19) -> list[float]:
    """The residual of linear regression on h_l for four components of the l-th style layer."""
    shares = []
    with torch.no_grad():
        for h, layer in zip(maps(images)[0], STYLE_LAYERS, strict=False):
            a, b = (x.transpose(0, 1).flatten(1).T.double() for x in (h, vgg(images)[layer]))
            b = torch.linalg.svd(b - b.mean(0), full_matrices=False).U[:, :4]
            shares.append((b - a @ torch.linalg.lstsq(a, b).solution).square().mean() * len(b))
    return [float(share) for share in shares]


@pytest.mark.slow
def test_distillation_teaches_forward_maps_the_features_of_vgg(folders, tiny) -> None:
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
    train(content, [style], out, config(steps=1, channels=(8, 12), residual=(0, 2)))
    expected = {"updates": 2, "channels": [8, 12], "residual": [0, 2]}
    assert load_solver(out).architecture == expected


@pytest.mark.slow
def test_resumes_exactly(folders, tiny, tmp_path: Path, monkeypatch) -> None:
    """Bit for bit, an interrupted run has the weights and the state of an uninterrupted one.

    With batches of 8 no crop passes through VGG alone; torch computes a single small image by
    another algorithm, whose rounding differs.
    """
    content, style = folders
    settings = config(
        steps=10,
        batch=8,
        preview_every=5,
        photoreal=0.5,
        structure_weight=2.0,
        noise_weight=0.01,
        alignment_weight=1.0,
    )
    whole = train(content, [style], tmp_path / "whole.safetensors", settings)

    class Interrupted(Exception):
        pass

    real = trainer.mean_terms
    calls = 0

    def interrupt(*args):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise Interrupted
        return real(*args)

    monkeypatch.setattr(trainer, "mean_terms", interrupt)
    with pytest.raises(Interrupted):
        train(content, [style], tmp_path / "cut.safetensors", settings)
    assert calls == 8
    resumed = train(content, [style], tmp_path / "cut.safetensors", settings)
    assert calls == 8 + 5  # from the checkpoint of step 5
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    states = [_checkpoint(tmp_path / f"{name}.safetensors") for name in ("whole", "cut")]
    for state in states:
        assert state.pop("seconds") > 0
    assert states[0].pop("metadata") == states[1].pop("metadata")
    torch.testing.assert_close(*states, rtol=0, atol=0)


def _checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out.with_suffix(".checkpoint.pt"), weights_only=True)


def test_a_checkpoint_of_another_run_or_a_damaged_one_raises(folders, tiny, tmp_path) -> None:
    content, style = folders
    out, checkpoint = tmp_path / "w.safetensors", tmp_path / "w.checkpoint.pt"
    train(content, [style], out, config(steps=1))
    message = r"must be the checkpoint of a run with seed 1, got 0; remove it to start from scratch"
    with pytest.raises(ValueError, match=message):
        train(content, [style], out, config(steps=2, seed=1))
    with pytest.raises(ValueError, match="is not a checkpoint of this network"):
        train(content, [style], out, config(steps=2, channels=(8, 12)))
    complete = checkpoint.read_bytes()
    for damaged in (b"garbage", b"", complete[:-1000], complete[: len(complete) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"w\.checkpoint\.pt is not a checkpoint of this network"
        ):
            train(content, [style], out, config(steps=2))
    torch.save({"metadata": {}, "step": 1}, checkpoint)
    with pytest.raises(ValueError, match="is not a checkpoint of this network"):
        train(content, [style], out, config(steps=2))


def test_a_damaged_picture_raises(folders) -> None:
    content, _ = folders
    (content / "0.png").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"0\.png cannot be read as a picture"):
        random_crop(content / "0.png", 32, random.Random(0))


def test_divergence_keeps_the_last_checkpoint(folders, tiny, tmp_path, monkeypatch) -> None:
    content, style = folders
    real, calls = trainer.mean_terms, 0

    def poison(*args):
        nonlocal calls
        calls += 1
        content, style = real(*args)
        return (content * float("nan") if calls == 8 else content), style

    monkeypatch.setattr(trainer, "mean_terms", poison)
    out = tmp_path / "w.safetensors"
    with pytest.raises(Diverged, match=r"step 7: the loss is nan .* last good state"):
        train(content, [style], out, config(steps=12))
    state = _checkpoint(out)
    assert state["step"] == 6
    for stack in (state["parameters"], state["averages"], *state["optimizer"]["stacks"]):
        assert all(torch.isfinite(tensor).all() for tensor in stack.values())


@pytest.mark.slow
def test_tune_changes_only_the_statistics_and_lowers_the_loss(folders, tiny, tmp_path) -> None:
    content, style = folders
    weights = tmp_path / "w.safetensors"
    train(content, [style], weights, config(steps=40))
    before = weights.read_bytes()
    out = tmp_path / "p.safetensors"
    settings = TuneConfig(weights=weights, batch=2, size=32, steps=40)
    (result,) = tune(style / "0.png", content, out, settings)
    assert weights.read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("p.*")) == ["p.safetensors"]

    solver, vgg = load_solver(weights), load_vgg19()
    (picture,) = reductions(whole_picture(style / "0.png", 512))
    photo = targets(vgg, whole_picture(content / "0.png", 32))
    with torch.no_grad():
        style_targets = targets(vgg, picture)
        untuned, tuned = (
            batch_loss(vgg, solver(photo[0].image[None], h), photo, style_targets, 20.0)[0]
            for h in (solver.statistics(mirrored(picture)), Statistics(result.own))
        )
        measured = Refinement().statistics(mirrored(picture))
    assert tuned < 0.98 * untuned
    assert result.widths == (solver.widths[0], measured.widths[1])
    assert len(result.vgg) == 4
    for h, expected in zip(result.vgg, measured.vgg, strict=True):
        torch.testing.assert_close(h, expected)
    for h in result.named().values():
        assert torch.equal(h, h.mT)
        assert torch.linalg.eigvalsh(h).min() > -1e-5 * h.abs().max()


def test_scales_are_tuned_one_after_the_other(folders, tmp_path, photo, monkeypatch) -> None:
    """The second starts from the results of the first, as it was tuned."""
    picture = (photo("coffee", 260)[0] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(tmp_path / "style.png")
    coarser, real = [], tuning.coarse_start

    def record(solver: Any, contents: Any, statistics: Any, share: float) -> Any:
        assert len(contents) == len(statistics)
        coarser.append(statistics[1:])
        return real(solver, contents, statistics, share)

    monkeypatch.setattr(tuning, "coarse_start", record)
    for name in ("LEAST_START", "LEAST_LOSS"):
        monkeypatch.setattr(tuning, name, 16)
    settings = TuneConfig(weights="tiny", batch=1, size=32, steps=2, lr=0.1)
    out = tmp_path / "p.safetensors"
    first, second = tune(tmp_path / "style.png", folders[0], out, settings)
    assert [len(scales) for scales in coarser] == [0, 0, 1, 1]
    assert torch.equal(coarser[3][0].own[0], first.own[0])
    assert not torch.equal(first.own[0], second.own[0])
    assert sorted(p.name for p in tmp_path.glob("p.*")) == ["p.safetensors"]
    for found, want in zip(presets.read(out), (first, second), strict=True):
        for h, expected in zip(found.own, want.own, strict=True):
            torch.testing.assert_close(h, expected, rtol=1e-3, atol=1e-3)
        for h, expected in zip(found.vgg, want.vgg, strict=True):
            assert (h - expected).norm() < 0.03 * expected.norm()


def test_tuning_starts_with_a_variance_in_every_direction_and_next_to_the_style() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    h = rows.mT @ rows  # of rank 3
    factor = tuning._factor(h)
    torch.testing.assert_close(factor @ factor.mT, h + 0.01 * h.trace() / 8 * torch.eye(8))


def test_crops_depend_on_the_seed_alone(folders) -> None:
    path = folders[0] / "0.png"
    crops = [random_crop(path, 32, random.Random(seed)) for seed in (1, 1, 2)]
    assert crops[0].shape == (3, 32, 32)
    assert crops[0].min() >= 0
    assert crops[0].max() <= 1
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 20}, "size must be a multiple of 8 and at least 16, got 20"),
        ({"size": (96, 20)}, r"size must be a multiple of 8 and at least 16, got \(96, 20\)"),
        ({"photoreal": 1.5}, r"photoreal must be in \[0, 1\], got 1\.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"minutes": 0.0}, r"minutes must be finite and positive, got 0\.0"),
        ({"minutes": float("inf")}, "minutes must be finite and positive, got inf"),
        ({"noise_weight": float("nan")}, "noise_weight must be at least 0, got nan"),
        ({"precision": "float16"}, r"precision must be one of \(.*\), got 'float16'"),
        ({"channels": (8, 4)}, r"channels must be at least 5 on every level, got \(8, 4\)"),
        ({"channels": (8, 8), "weights": "tiny"}, "channels and residual must be left out with"),
        ({"residual": (1, 1), "weights": "tiny"}, "channels and residual must be left out with"),
    ],
)
def test_settings_out_of_range_raise(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainConfig(**settings)


def test_too_few_pictures_raise(folders, tmp_path: Path) -> None:
    content, style = folders
    (tmp_path / "empty").mkdir()
    out = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="holdout must leave a picture of every folder, got 4"):
        train(content, [style], out, config(holdout=4))
    with pytest.raises(ValueError, match="pictures"):
        train(content, [tmp_path / "empty"], out, config())
    for folder, pack in ((None, None), (content, tmp_path / "x.pack")):
        with pytest.raises(ValueError, match="content or pack must be given, and not both"):
            train(folder, [style], out, config(), pack=pack)


def test_settings_must_suit_the_processes(folders, tmp_path: Path) -> None:
    pictures = from_folders(folders[0], [folders[1]], 1)
    for settings, sentence in [
        ({"batch": 3}, "batch must be a multiple of the 2 processes, got 3"),
        ({"minutes": 1.0}, r"minutes must be left out with 2 processes, got 1\.0"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Trainer(pictures, tmp_path / "w.safetensors", config(**settings), processes=2)


def _save_initialised(path: Path) -> None:
    """A new initialised network; without that its gradients are as small as rounding errors."""
    torch.manual_seed(0)
    solver = _tiny()
    solver.initialise(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32) ** 3)
    save_solver(solver, path, {})


def _curve(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [e.value for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    _save_initialised(tmp_path / "start.safetensors")
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
    assert one.keys() == {"content", "style", "rate", "norm", "pictures per second"}
    for name in ("content", "style", "norm"):
        assert len(set(one[name])) == 4
        assert two[name] == pytest.approx(one[name], rel=1e-2)
    paths = [tmp_path / f"{name}.safetensors" for name in ("start", "one", "two")]
    initial, a, b = (torch.cat([p.flatten() for p in load_solver(f).parameters()]) for f in paths)
    assert (a - b).norm() < 0.2 * (a - initial).norm()  # SOAP divides rounding by rounding


@pytest.mark.slow
def test_half_precision_learns_alike(folders, tiny, tmp_path: Path, capsys) -> None:
    content, style = folders
    losses = []
    for precision in ("float32", "bfloat16"):
        out = tmp_path / f"{precision}.safetensors"
        train(content, [style], out, config(steps=30, precision=precision))
        losses.append(float(capsys.readouterr().err.split()[-1]))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


class _Convolutions(TorchDispatchMode):
    """Collects the dtypes of all convolutions' operands, and checks their layout."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[set[torch.dtype]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (
            torch.ops.aten.convolution,
            torch.ops.aten.convolution_backward,
        ):
            operands = [x for x in args if isinstance(x, torch.Tensor) and x.dim() == 4]
            features = (x for x in operands if x.shape[1] > 3)
            assert all(x.is_contiguous(memory_format=torch.channels_last) for x in features)
            self.dtypes.append({x.dtype for x in operands})
        return function(*args, **(kwargs or {}))


def test_a_step_in_half_precision_has_the_gradient_of_one_in_full(folders, tiny) -> None:
    """All convolutions, forward and backward, run in channels_last memory and in the precision."""
    losses, gradients = [], []
    for precision in ("float32", "bfloat16"):
        run = _first_step(folders, precision=precision, alignment_weight=1.0)
        with _Convolutions() as convolutions:
            loss = run.loss(0)[0]
            loss.backward()
        assert len(convolutions.dtypes) > 100
        assert all(dtypes == {getattr(torch, precision)} for dtypes in convolutions.dtypes)
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in run.solver.parameters()]))
    full, half = gradients
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert (half - full).norm() < 0.06 * full.norm()
    assert half.dtype == torch.float32


def test_the_weights_that_are_written_are_averages(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    out = tmp_path / "w.safetensors"
    train(content, [style], out, config(steps=20))
    state = _checkpoint(out)
    for name, weight in load_solver(out).state_dict().items():
        assert torch.equal(weight, state["averages"][name].half().float())
        assert not torch.equal(weight, state["parameters"][name].half().float())


def test_a_fraction_of_the_steps_is_constrained(folders, tiny, tmp_path, monkeypatch) -> None:
    content, style = folders
    cutoffs = []

    class Recorded(BetweenUpdates):
        def __init__(self, parts: Any, content: torch.Tensor, cutoff: float, updates: int) -> None:
            assert parts == ("photoreal",)
            cutoffs.append(cutoff)
            super().__init__(parts, content, cutoff, updates=updates)

    monkeypatch.setattr(trainer, "BetweenUpdates", Recorded)
    out = tmp_path / "w.safetensors"
    train(content, [style], out, config(steps=12, photoreal=0.5))
    assert 3 <= len(cutoffs) <= 9
    assert all(0.003 <= c <= 0.1 for c in cutoffs)
    assert len(set(cutoffs)) == len(cutoffs)


def _first_step(folders: tuple[Path, Path], **settings: Any) -> Trainer:
    """Prepare for the first step, always of the same network and the same crops."""
    start = folders[0] / "start.safetensors"
    _save_initialised(start)
    pictures = from_folders(folders[0], [folders[1]], 1)
    run = Trainer(pictures, start, config(weights=start, **settings))
    run.prepare()
    return run


def _first_loss(folders: tuple[Path, Path], **settings: Any) -> torch.Tensor:
    return _first_step(folders, **settings).loss(0)[0]


@pytest.mark.parametrize(
    ("setting", "function", "photoreal"),
    [
        ("alignment_weight", "gradient_mismatch", 0.0),
        ("structure_weight", "structure_loss", 1.0),
    ],
)
def test_a_weight_adds_its_term_to_the_loss(
    folders, tiny, monkeypatch, setting: str, function: str, photoreal: float
) -> None:
    """The difference is exactly the weight times the term, and larger than rounding."""
    terms = []
    real = getattr(trainer, function)

    def record(*args):
        terms.append(real(*args))
        return terms[-1]

    monkeypatch.setattr(trainer, function, record)
    without = _first_loss(folders, photoreal=photoreal)
    assert not terms
    total = _first_loss(folders, photoreal=photoreal, **{setting: 0.7})
    (term,) = terms
    assert torch.equal(total, without + 0.7 * term)
    assert 3e-5 < term < 2
    assert term.requires_grad


def test_the_finest_scale_is_trained_from_the_coarser_one(folders, tiny, monkeypatch) -> None:
    """The loss of a step with two scales, written out."""
    for name in ("LEAST_START", "LEAST_LOSS"):
        monkeypatch.setattr(trainer, name, 32)
    run = _first_step(folders, size=64, levels=2, batch=1)
    (content,), (style,) = run._sample(0)
    assert content.half is not None
    assert style.half is not None
    photo, painting = content.image[None], style.image[None]
    half, small = (F.avg_pool2d(image, 2) for image in (photo, painting))
    solver, share = run.solver, run._share(0)
    assert 0.5 <= share <= 1
    with torch.no_grad():
        coarse = solver(half, solver.statistics(small)).clamp(0, 1)
        change = F.interpolate(coarse - half, (64, 64), mode="bicubic")
        output = solver(photo, solver.statistics(painting), start=photo + share * change)
        terms = [
            batch_loss(run.vgg, image, [c], [s], 0.0)[1]
            for image, c, s in (
                (output.clamp(0, 1), content, style),
                (F.avg_pool2d(output.clamp(0, 1), 2), content.half, style.half),
            )
        ]
    _, found = run.loss(0)
    for name, value in found.items():
        want = (terms[0][name] + terms[1][name]) / 2
        torch.testing.assert_close(value, want, rtol=0.1, atol=0)  # halves are bicubic
    loss, _ = run.loss(0)
    loss.backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in solver.parameters())
    constrained = _first_step(folders, size=64, levels=2, batch=1, photoreal=1.0)
    constrained.loss(0)


def test_the_structure_weight_belongs_to_constrained_steps(folders, tiny) -> None:
    without, total = (_first_loss(folders, structure_weight=weight) for weight in (0.0, 5.0))
    assert torch.equal(total, without)


@pytest.mark.slow
def test_noise_weight_lowers_the_amplification_of_noise(folders, tiny, tmp_path: Path) -> None:
    content, style = folders
    picture = torch.rand(1, 3, 48, 48)
    noisy = picture + torch.randn_like(picture) / 255

    def amplification(name: str, **settings: float) -> float:
        solver = train(content, [style], tmp_path / name, config(steps=30, **settings))
        solver.requires_grad_(False)
        statistics = solver.statistics(whole_picture(style / "0.png", 64))
        change = solver(noisy, statistics) - solver(picture, statistics)
        return float(change.norm() / (noisy - picture).norm())

    without = amplification("without.safetensors")
    assert amplification("with.safetensors", noise_weight=1000.0) < 0.9 * without


def test_gradient_mismatch_is_the_angle_between_the_gradients(folders) -> None:
    torch.manual_seed(0)
    maps = _tiny(channels=(8, 12, 16)).forward_maps
    x, content, style = torch.rand(3, 2, 3, 32, 32)
    output = x.requires_grad_()

    def gram_of(image: torch.Tensor, level: int) -> torch.Tensor:
        return torch.einsum("bcij,bdij->bcd", *2 * [maps(image)[0][level]]) / (32 >> level) ** 2

    for level in range(3):
        grams = (gram_of(image, level) for image in (output, style, content))
        own = relative_style_loss(*grams).mean()
        for term, expected in ((own, 0.0), (-3 * own, 2.0)):
            mismatch = gradient_mismatch(maps, level, term, output, content, style)
            assert mismatch.item() == pytest.approx(expected, abs=1e-4)


def test_forward_maps_learn_to_align_their_gradients(folders, tiny, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vgg, maps = load_vgg19(), _tiny().forward_maps
    content, style = (whole_picture(list_images(folder)[0], 48) for folder in folders)
    content_targets, style_targets = (targets(vgg, picture) for picture in (content, style))
    output = content.clone().requires_grad_()
    terms = batch_terms(vgg, output, content_targets, style_targets)[1]
    optimizer = torch.optim.Adam(maps.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = sum(gradient_mismatch(maps, k, terms[k], output, content, style) for k in range(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_soap_is_the_published_optimizer() -> None:
    """Stacked parameters of one shape move like each of them alone."""
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


def test_soap_continues_from_its_state() -> None:
    shapes = [(6, 4, 3, 3), (5,), (6, 6)]

    def steps(parameters: list[nn.Parameter], optimizer: SOAP, count: range) -> None:
        for step in count:
            generator = torch.Generator().manual_seed(step)
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator) + p.detach()
            optimizer.step(0.01)

    whole, first = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    steps(whole, SOAP(whole), range(23))
    optimizer = SOAP(first)
    steps(first, optimizer, range(11))
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = SOAP(second)
    resumed.load_state_dict(optimizer.state_dict())
    steps(second, resumed, range(11, 23))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
    with pytest.raises(ValueError, match="longer"):
        SOAP(second[:1]).load_state_dict(optimizer.state_dict())


class _Time:
    """A clock that advances by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_rate_follows_the_clock_and_a_resumed_run_has_the_rest_of_the_minutes(
    tmp_path: Path, monkeypatch
) -> None:
    clock = _Time()
    monkeypatch.setattr(loop, "perf_counter", clock)
    rates: list[float] = []

    def run(minutes: float, x: nn.Parameter) -> int:
        def loss(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return x.square().sum(), {}

        def record(step: int, numbers: dict[str, float]) -> None:
            rates.append(numbers["rate"])

        checkpoint = tmp_path / "x.checkpoint.pt"
        options = {"metadata": {}, "steps": None, "lr": 1.0, "every": 10**6, "record": record}
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
    pictures = read_pack(pack, "cpu")
    assert pictures.names == ["content", "style", "content"]
    folders_of_pack = pictures.content, *pictures.styles, pictures.held_out
    assert [len(folder) for folder in folders_of_pack] == [3, 4, 3, 1]
    assert [id(p) for p in pictures.styles[1]] == [id(p) for p in pictures.content]
    assert [id(p) for p in pictures.styles[0]] == [id(p) for p in pictures.paintings]
    ((name, *both),) = pictures.pairs
    assert name == "01"
    for pixels, path in [
        *zip(pictures.content, list_images(content), strict=False),
        *zip(pictures.held_out, list_images(content)[3:], strict=True),
        *zip(both, (content / "0.png", style / "0.png"), strict=True),
    ]:
        original = read_pixels(path)
        assert pixels.shape == original.shape
        assert (pixels.float() - original.float()).square().mean() < 65  # 30 dB


def test_a_pack_fits_into_its_limit(folders, pack: Path, tmp_path: Path) -> None:
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


def test_options_that_contradict_a_pack_raise(folders) -> None:
    both = ["--content", folders[0], "--style", folders[1]]
    for arguments, sentence in [
        (["--style", folders[1]], "--content must be given with --style, or --pack without either"),
        (both[:2], "--style must be given with --content"),
        (both, "--output must be given"),
        (
            [*both, "--pack", "p", "-o", "w"],
            "--output must be left out when a pack is written",
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
            [*both, "-o", folders[0] / "0.png"],
            f"--output must end in .safetensors, got {folders[0] / '0.png'}",
        ),
        (
            ["--pack", folders[0] / "0.png", "-o", "w.safetensors"],
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
    settings = {"weights": tmp_path / "start.safetensors", "steps": 5, "lr": 0.05}
    train(content, [style, content], tmp_path / "folders.safetensors", config(**settings))
    train(None, [], tmp_path / "w.safetensors", config(scores=1, **settings), pack=pack)
    lines = capsys.readouterr().err.splitlines()
    of_folders, of_pack = ([float(word) for word in line.split()[2::2]] for line in lines)
    assert of_pack == pytest.approx(of_folders, rel=0.03)

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
