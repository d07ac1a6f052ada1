"""Programs that torch.export and torch.compile make of a stylizer, against the stylizer itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from fastfcs import LowPass, MattingLaplacian, Stylizer
from fastfcs.constraints.registry import Name
from fastfcs.network import UnrolledSolver
from fastfcs.refinement import RefinedSolver, Refinement
from fastfcs.weights import load_network

OUTSIDE = r"content must be finite and in \[0, 1\]"

OPTIONS: dict[str, dict[str, Any]] = {
    "artistic": {},
    "strength": {"constraint": "keep-colour", "strength": 0.5},
    "photoreal": {"constraint": "photoreal", "cutoff": 0.1},
    "several": {"constraint": ["photoreal", "keep-luminance"]},
}
compile_whole: Callable[..., Any] = torch.compile(fullgraph=True, backend="aot_eager")


@pytest.fixture(autouse=True)
def compiled_anew() -> None:
    torch._dynamo.reset()


def small_network() -> UnrolledSolver:
    """One of a single update, since tracing takes as long as the network is."""
    return UnrolledSolver(updates=1, channels=(8, 8)).requires_grad_(False)


def stylizer(styles: int = 1, **options: Any) -> Stylizer:
    return Stylizer(torch.rand(styles, 3, 20, 24), weights=small_network(), **options)


def masks(height: int = 32, width: int = 32) -> Tensor:
    left = (torch.arange(width) < 9).expand(height, width)
    return torch.stack([left, ~left]).float()


def assert_same(
    program: Callable[..., Tensor], module: nn.Module, *inputs: Tensor, atol: float = 1e-5
) -> None:
    expected = module(*inputs)
    assert (expected - inputs[0]).abs().max() > 1e-3
    torch.testing.assert_close(program(*inputs), expected, atol=atol, rtol=1e-5)


def gradient(function: Callable[..., Tensor], content: Tensor) -> Tensor:
    content = content.clone().requires_grad_()
    (result,) = torch.autograd.grad(function(content).square().sum(), content)
    return result


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_exports_to_the_same(options: dict[str, Any]) -> None:
    module, shape = stylizer(**options), (2, 3, 17, 40)
    program = export(module, (torch.rand(shape),)).module()
    content = torch.rand(shape)
    assert_same(program, module, content)
    # Outside of the program, constraints without effect are left out, which differs by rounding.
    torch.testing.assert_close(gradient(program, content), gradient(module, content))
    with torch.inference_mode():
        assert_same(program, module, content)
    for wrong in (content + 1, content - 1, content.where(content > 0.01, torch.nan)):
        with pytest.raises(RuntimeError, match=OUTSIDE):
            program(wrong)


def test_exports_strictly() -> None:
    module = stylizer()
    program = export(module, (torch.rand(3, 32, 32),), strict=True).module()
    assert_same(program, module, torch.rand(3, 32, 32))


@pytest.mark.slow
def test_compiles_to_the_same() -> None:
    module = stylizer(**OPTIONS["photoreal"])
    compiled, content = compile_whole(module), torch.rand(3, 32, 32)
    assert_same(compiled, module, content)
    with pytest.raises(RuntimeError, match=OUTSIDE):
        compiled(content + 1)


@pytest.mark.slow
def test_compiled_once_per_size() -> None:
    module = stylizer(constraint="keep-colour")
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    for shape in ((3, 32, 32), (3, 45, 31)):
        assert_same(compiled, module, torch.rand(shape))


@pytest.mark.slow
def test_one_compiled_stylizer() -> None:
    """It has gradients, respects the grad mode, and follows its settings."""
    module, content = stylizer(constraint="keep-colour", strength=0.5), torch.rand(3, 32, 32)
    compiled, expected = compile_whole(module), gradient(module, content)
    torch.testing.assert_close(gradient(compiled, content), expected)
    with torch.no_grad():
        assert_same(compiled, module, content)
    with torch.inference_mode():
        assert_same(compiled, module, content)
    module.strength = 0.75
    assert_same(compiled, module, content)
    module.set_style(torch.rand(3, 24, 20))
    assert_same(compiled, module, content)


@pytest.mark.parametrize("constraint", [None, "photoreal"])
def test_exports_for_every_batch(constraint: str | None) -> None:
    module = stylizer(constraint=constraint)
    sizes = ({0: Dim("B")},)
    program = export(module, (torch.rand(2, 3, 24, 32),), dynamic_shapes=sizes).module()
    for batch in (1, 2, 5):
        assert_same(program, module, torch.rand(batch, 3, 24, 32))


def test_regions() -> None:
    module, content = stylizer(styles=2), torch.rand(3, 32, 32)
    for program in (export(module, (content, masks())).module(), compile_whole(module)):
        assert_same(program, module, torch.rand(3, 32, 32), masks().flip(2))
        for wrong in (2 * masks(), -masks(), torch.zeros(2, 32, 32)):
            with pytest.raises(RuntimeError, match=r"regions must be masks in \[0, 1\], none"):
                program(content, wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constraint", "weights"),
    [(None, "tiny"), ("photoreal", None)],
    ids=["artistic", "photoreal"],
)
def test_refined(constraint: Name | None, weights: str | None) -> None:
    style, content = torch.rand(2, 3, 32, 32)
    network = load_network(weights) if weights else small_network()
    solver = RefinedSolver(network, Refinement(updates=1)).eval().requires_grad_(False)
    module = Stylizer(style, weights=solver, precision="float32", constraint=constraint)
    program = export(module, (content,)).module()
    # In a photograph, the rounding of small gradients is seen, which Adam enlarges.
    assert_same(program, module, torch.rand(3, 32, 32), atol=5e-4 if constraint else 1e-5)


class Filter(nn.Module):
    """A matting Laplacian, or a filter on one, that torch.export takes."""

    def __init__(self, lowpass: LowPass | None) -> None:
        super().__init__()
        self.lowpass = lowpass

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        laplacian = MattingLaplacian(image)
        return laplacian @ x if self.lowpass is None else self.lowpass(laplacian, x)


@pytest.mark.parametrize("lowpass", [None, LowPass(0.1), LowPass(0.1, kind="heat")])
def test_filters(lowpass: LowPass | None) -> None:
    module = Filter(lowpass)
    program = export(module, (torch.rand(5, 8, 9), torch.rand(3, 8, 9))).module()
    assert_same(program, module, torch.rand(5, 8, 9), torch.rand(3, 8, 9))


def test_saved_programs_run_elsewhere(tmp_path: Path) -> None:
    modules = (
        (stylizer(), (torch.rand(3, 32, 32),)),
        (Filter(LowPass(0.1)), (torch.rand(5, 8, 9), torch.rand(3, 8, 9))),
    )
    for k, (module, inputs) in enumerate(modules):
        torch.export.save(export(module, inputs), tmp_path / f"{k}.pt2")
        torch.save([*inputs, module(*inputs)], tmp_path / f"{k}.pt")
    code = """
import fastfcs.ops, torch
for k in range(2):
    *inputs, expected = torch.load(f"{k}.pt")
    program = torch.export.load(f"{k}.pt2").module()
    torch.testing.assert_close(program(*inputs), expected)"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_vmap_raises_one_sentence() -> None:
    message = r"^content must be a batch \(B, 3, H, W\), got \(3, 32, 32\) under torch.vmap$"
    with pytest.raises(ValueError, match=message):
        torch.vmap(stylizer())(torch.rand(2, 3, 32, 32))
