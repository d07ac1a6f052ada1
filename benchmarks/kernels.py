"""Run every operator once on CUDA, for compute-sanitizer and ncu.

python benchmarks/kernels.py SIDE... [--operators matting|gram|passes] [--channels C...] [--check]

Images and features have SIDE x (SIDE + 2) pixels. --check compares with the operators on the CPU.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fastfcs import ops

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def compare(name: str, call: Callable[..., Any], *inputs: Tensor, check: bool) -> Any:
    """Call an operator on CUDA and, with `check`, compare it with the CPU."""
    cuda = call(*inputs)
    torch.cuda.synchronize()
    if not check:
        return cuda
    cpu = call(*(x.cpu() for x in inputs))
    for actual, expected in zip(
        *(x if isinstance(x, tuple) else (x,) for x in (cuda, cpu)), strict=True
    ):
        actual, expected = actual.cpu().double(), expected.double()
        error = float((actual - expected).abs().max() / expected.abs().max())
        print(f"{name}: {error:.1e}", flush=True)
        assert error < CLOSE[inputs[0].dtype], name
    return cuda


def matting(shape: tuple[int, int], channels: Sequence[int], check: bool) -> None:
    coefficients = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)

    def filtered(image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
        return ops.matting_filter(image, factors, x, coefficients)

    for dtype in (torch.float32, torch.float64) if check else (torch.float32,):
        image = random(1, 3, *shape).to(dtype)
        factors = compare(f"factors {dtype}", ops.matting_factors, image, check=check)
        for c in channels:
            x = random(1, c, *shape).to(dtype)
            size = f"{c} channels {dtype}"
            compare(f"product {size}", ops.matting_matvec, image, factors, x, check=check)
            compare(f"filter {size}", filtered, image, factors, x, check=check)


def gram(shape: tuple[int, int], channels: Sequence[int], check: bool) -> None:
    for dtype in CLOSE if check else (torch.float32, torch.bfloat16):
        for c in channels:
            target = random(1, c, c).to(torch.promote_types(dtype, torch.float32))
            for layout in (torch.contiguous_format, torch.channels_last):
                h, grad = (
                    random(2, c, *shape).to(dtype).contiguous(memory_format=layout)
                    for _ in range(2)
                )
                size = f"{c} channels {dtype} {layout}"
                compare(f"gram {size}", ops.gram, h, check=check)
                compare(f"cross {size}", ops.cross_gram, h, grad, check=check)
                compare(f"correction {size}", ops.gram_correction, h, target, check=check)
                backward = ops.gram_correction_backward
                compare(f"backward {size}", backward, h, target, grad, check=check)


def passes(shape: tuple[int, int], channels: Sequence[int], check: bool) -> None:
    """The passes between convolutions, in channels_last memory."""
    height, width = shape
    cells = (height + 1) // 2, (width + 1) // 2
    for dtype in CLOSE if check else (torch.float32, torch.bfloat16):
        for c in channels:

            def signed(height: int, width: int, c: int = c, dtype: torch.dtype = dtype) -> Tensor:
                x = (random(2, c, height, width) - 0.5).to(dtype)
                return x.contiguous(memory_format=torch.channels_last)

            x, by, coarse = signed(*shape), signed(*shape), signed(*cells)
            padded = signed(height + 2, width + 2), signed(cells[0] + 2, cells[1] + 2)
            weights = random(1, c, c).to(torch.promote_types(dtype, torch.float32))
            size = f"{c} channels {dtype}"
            compare(f"level {size}", ops.level_gradient, x, weights, coarse, check=check)
            for name, grad in zip(("gate", "halve"), padded, strict=True):
                compare(f"{name} {size}", getattr(ops, name), x, by, check=check)
                backward = getattr(ops, f"{name}_backward")
                compare(f"{name} backward {size}", backward, grad, by, check=check)


def random(*shape: int) -> Tensor:
    return torch.rand(shape, device="cuda")


OPERATORS = {
    "matting": (matting, (1, 3, 8)),
    "gram": (gram, (3, 16, 64, 128)),
    "passes": (passes, (3, 16, 96)),
}


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("sides", type=int, nargs="+")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--channels", type=int, nargs="+")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="run nothing, need no device")
    arguments = parser.parse_args()
    if arguments.dry_run:
        print(f"would run {vars(arguments)}")
        return
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")
    torch.manual_seed(0)
    for side, name in product(arguments.sides, arguments.operators):
        run, channels = OPERATORS[name]
        run((side, side + 2), arguments.channels or channels, arguments.check)


if __name__ == "__main__":
    main()
