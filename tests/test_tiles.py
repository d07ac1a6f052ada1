"""Paintings by tiles: they are those of the whole picture, and take the memory they are given."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pictures import noise
from torch import Tensor

from fastfcs import Stylizer, images, memory, network, pyramid, stylizer, tiles
from fastfcs.cli import cli
from fastfcs.network import UnrolledSolver
from fastfcs.precision import Precision
from fastfcs.refinement import RefinedSolver, Refinement
from fastfcs.tiles import Footprint, split
from fastfcs.weights import save_solver

CHANNELS = (8, 8, 8)


def made(residual: tuple[int, ...] | None = None) -> UnrolledSolver:
    """A solver of random weights whose every update changes X by several grey levels."""
    torch.manual_seed(0)
    solver = UnrolledSolver(updates=2, channels=CHANNELS, residual=residual)
    solver.initialise(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64) ** 3)
    return solver.eval().requires_grad_(False)


def weights(kind: str, height: int, width: int) -> dict[str, Tensor]:
    regions = torch.rand(2, height, width)
    regions[0, :, : width // 3] = 0
    both = {"regions": regions, "alpha": torch.rand(1, 1, height, width)}
    return {name: value for name, value in both.items() if kind in (name, "both")}


@given(
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    side=st.integers(32, 200),
    halo=st.integers(0, 40),
    multiple=st.sampled_from([1, 2, 4, 8]),
)
def test_tiles_partition_a_picture(
    size: tuple[int, int], side: int, halo: int, multiple: int
) -> None:
    covered = torch.zeros(size)
    for tile in split(size, side, halo, multiple):
        tile.cut_interior(covered).add_(1)
        assert tile.pixels == tile.cut(covered).numel()
        for outer, inner, length in zip(tile.outer, tile.inner, size, strict=True):
            assert 0 < inner.stop - inner.start <= side
            assert outer.start == 0 or inner.start - outer.start >= halo
            assert outer.stop == length or outer.stop - inner.stop >= halo
            assert outer.start % multiple == inner.start % multiple == 0
            assert all(side == length or side % multiple == 0 for side in (outer.stop, inner.stop))
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("size", "kind", "residual"),
    [
        ((72, 104), "", None),
        ((69, 107), "", (1, 0, 2)),
        ((69, 107), "alpha", None),
        ((69, 107), "regions", None),
        ((72, 104), "both", (0, 1, 0)),
    ],
)
def test_the_network_by_tiles(
    size: tuple[int, int], kind: str, residual: tuple[int, ...] | None
) -> None:
    """In float64, where rounding decides on no gate."""
    solver = made(residual).double()
    content, styles = torch.rand(1, 3, *size).double(), torch.rand(2, 3, 40, 40).double() ** 3
    statistics = solver.statistics(styles if kind in ("regions", "both") else styles[:1])
    options: dict[str, Any] = weights(kind, *size)
    whole = solver(content, statistics, **options)
    assert (whole - content).abs().mean() > 0.01
    by_tiles = solver(content, statistics, **options, tile=40)
    torch.testing.assert_close(by_tiles, whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize("missing", [8, 16])
def test_a_halo_that_is_too_small_shows(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = made().double()
    content, style = torch.rand(1, 3, 96, 136).double(), torch.rand(1, 3, 40, 40).double() ** 3
    statistics = solver.statistics(style)
    whole = solver(content, statistics)
    halo = solver.footprint().gradient
    monkeypatch.setattr(network, "halos", lambda radii, enlarged: (halo, halo - missing))
    assert (solver(content, statistics, tile=32) - whole).abs().max() > 1e-6


@pytest.mark.parametrize("precision", [None, Precision(torch.bfloat16)])
def test_rounding_alone_differs(precision: Precision | None) -> None:
    solver = made()
    content, style = noise(1, 3, 101, 139, seed=1), torch.rand(1, 3, 40, 40) ** 3
    statistics = solver.statistics(style)
    whole, by_tiles = (
        solver(content, statistics, precision=precision, tile=tile) for tile in (None, 32)
    )
    allowed = 1e-5 if precision is None else 0.5 / 255
    assert (by_tiles - whole).abs().mean() < allowed


@pytest.mark.parametrize("kind", ["", "alpha", "regions", "both"])
def test_the_refinement_by_tiles(kind: str) -> None:
    refinement = Refinement(updates=1)
    content, image = noise(2, 3, 101, 139, seed=1).split(1)
    styles = torch.rand(2, 3, 32, 32) ** 3
    statistics = refinement.statistics(styles if kind in ("regions", "both") else styles[:1])
    options: dict[str, Any] = weights(kind, 101, 139)
    whole, by_tiles = (
        refinement.gradient(
            image, refinement.targets(content, statistics, **options, tile=tile), tile=tile
        )
        for tile in (None, 64)
    )
    torch.testing.assert_close(by_tiles, whole, atol=1e-5 * whole.abs().max().item(), rtol=0)


def test_tiles_are_not_too_small() -> None:
    solver = made()
    content = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="tile must be None or at least 32, got 16"):
        solver(content, solver.statistics(content), tile=16)


# The whole painting


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SMALLEST", 64)
    monkeypatch.setattr(pyramid, "SMALLEST", 64)


CONTENT, STYLE = noise(3, 150, 201, seed=2), noise(3, 60, 70, seed=3)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("refined", [False, True])
def test_a_painting_by_tiles(refined: bool) -> None:
    """Of two scales, both of which have tiles if there is hardly any memory."""
    solver = RefinedSolver(made(), Refinement(updates=1)) if refined else made()
    painter = Stylizer(STYLE, weights=solver, memory=10**9)
    assert painter.tiles(150, 201) == 1
    whole = painter(CONTENT)
    painter.memory = 10**6
    assert painter.tiles(150, 201) == 12
    assert painter.work(150, 201) > 2 * Stylizer(weights=solver, memory=10**9).work(150, 201)
    assert (whole - CONTENT).abs().mean() > 0.01
    assert (painter(CONTENT) - whole).abs().mean() < 1e-4


def seen_sizes(solver: UnrolledSolver) -> list[torch.Size]:
    sizes: list[torch.Size] = []
    solver.forward_maps.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-2:]))
    return sizes


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "options", [{"constraint": "photoreal"}, {"memory": 10**9}, {"requires_grad": True}]
)
def test_no_tiles(options: dict[str, Any]) -> None:
    """Of photographs, of what fits, and while a graph is recorded."""
    requires_grad = options.pop("requires_grad", False)
    solver = made()
    painter = Stylizer(STYLE, weights=solver, levels=1, **{"memory": 10**6} | options)
    sizes = seen_sizes(solver)
    painter(CONTENT.clone().requires_grad_(requires_grad))
    assert sizes == [(150, 201)] * 2


def test_by_default_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    solver = made()
    painter = Stylizer(STYLE, weights=solver)
    monkeypatch.setattr(tiles, "SMALLEST", 64)
    monkeypatch.setattr(stylizer, "free_memory", lambda device: 10**6)
    assert painter.tiles(150, 201) == 12
    monkeypatch.setattr(stylizer, "free_memory", lambda device: None)
    assert painter.tiles(150, 201) == 1
    monkeypatch.setattr(stylizer, "free_memory", lambda device: 10**12)
    assert painter.tiles(150, 201) == 1
    monkeypatch.setattr(stylizer, "ENOUGH", 10**6)  # of a CPU's memory
    assert painter.tiles(150, 201) == 12

    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    cpu = torch.device("cpu")
    assert memory.free_memory(cpu) == int(0.8 * 1024 * 1000)
    for name, text in [("max", "900000"), ("current", "500000"), ("stat", "active_file 1000\n")]:
        (tmp_path / f"memory.{name}").write_text(text)
    (tmp_path / "memory.stat").write_text("anon 7\nactive_file 1000\ninactive_file 2000\n")
    assert memory.free_memory(cpu) == int(0.8 * 403_000)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "meminfo").unlink()
    assert memory.free_memory(cpu) is None


def test_more_memory_makes_larger_tiles() -> None:
    footprint = Footprint(30, 70, multiple=16, pixel_bytes=300, image_bytes=100)
    size, pixels = (3000, 4000), 12 * 10**6
    amounts = [m * 10**6 for m in (100, 1300, 1600, 2800, 4800)]
    sides = [footprint.tile(pixels, size, amount) for amount in amounts]
    assert sides == [256, 416, 992, 2144, None]
    assert footprint.tile(4 * pixels, size, 4 * 1300 * 10**6, batch=4) == 416


class Exhausted:
    """Runs out of memory in tiles larger than some side."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
        self.tiles: list[int | None] = []
        forward = UnrolledSolver.forward

        def limited(solver: UnrolledSolver, *args: Any, tile: int | None = None) -> Tensor:
            self.tiles.append(tile)
            if tile is None or tile > largest:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(solver, *args, tile=tile)

        monkeypatch.setattr(UnrolledSolver, "forward", limited)


@pytest.mark.usefixtures("small_tiles")
def test_smaller_tiles_if_memory_is_exhausted(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Stylizer(STYLE, weights=made(), levels=1, memory=10**9)
    whole = painter(CONTENT)
    exhausted = Exhausted(monkeypatch, 100)
    with pytest.warns(UserWarning, match="not enough memory: painted again in tiles of 100 pixels"):
        result = painter(CONTENT)
    assert exhausted.tiles == [None, 100]
    assert (result - whole).abs().mean() < 1e-4
    exhausted = Exhausted(monkeypatch, 0)
    with (
        pytest.warns(UserWarning, match="painted again"),
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        painter(CONTENT)
    assert exhausted.tiles == [None, 100]
    painter.constraint = "photoreal"
    with pytest.raises(RuntimeError, match="out of memory"):
        painter(CONTENT)


# The command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_solver(made(), tmp_path / "w.safetensors", {})
    for name, image in [("a.png", CONTENT), ("style.png", STYLE)]:
        images.write(images.Picture(image), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Any:
    options = "--style", "style.png", "--weights", "w.safetensors", "--json", "--device", "cpu"
    return CliRunner().invoke(cli, ["stylize", "a.png", "-o", "out.png", *options, *args])


@pytest.mark.usefixtures("folder", "small_tiles")
def test_the_command_reports_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(run().stdout)["tiles"] == 1
    assert json.loads(run("--memory", "1MB", "--force").stdout)["tiles"] == 12
    Exhausted(monkeypatch, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the command does
        notes = json.loads(run("--levels", "1", "--force").stdout)["notes"]
    assert "not enough memory: painted again in tiles of 100 pixels" in notes


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "0MB", "2 TB", "1e3MB"])
def test_bad_amounts_of_memory(text: str) -> None:
    result = run(f"--memory={text}")
    assert result.exit_code == 2
    assert "--memory" in result.stderr
    assert f"must be a number of MB or GB, such as 800MB, got {text!r}" in result.stderr


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("refined", [False, True])
def test_the_bar_with_tiles(refined: bool) -> None:
    from fastfcs.steps import follow

    solver = RefinedSolver(made(), Refinement(updates=1)) if refined else made()
    painter = Stylizer(STYLE, weights=solver, memory=10**6)
    parts: list[float] = []
    with follow(painter, parts.append), torch.inference_mode():
        painter(images.Picture(CONTENT))
    assert sum(parts) == pytest.approx(1)
    # The last part is for reading and writing.
    work = painter.work(150, 201)
    assert parts[-1] == pytest.approx(2 * 150 * 201 / (work + 2 * 150 * 201))
    assert max(parts[:-1]) < 0.05


def test_memory_is_checked() -> None:
    with pytest.raises(ValueError, match="memory must be None or at least 1 byte, got 0"):
        Stylizer(weights=made(), memory=0)
