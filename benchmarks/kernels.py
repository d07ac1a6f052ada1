"""Every operator once on CUDA, for compute-sanitizer and ncu; no other kernel runs.

python benchmarks/kernels.py SIDE... [--check]

Pictures of SIDE x (SIDE + 2) pixels, features likewise; --check compares with the CPU's operators.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastfcs import ops

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def compare(name: str, call: Callable[..., Any], *inputs: Any, check: bool) -> None:
    """Run it on CUDA; inputs are made on the CPU, and copied there."""
    there = call(*(x.cuda() if isinstance(x, Tensor) else x for x in inputs))
    torch.cuda.synchronize()
    if not check:
        return
    for found, want in zip(
        *(x if isinstance(x, tuple) else (x,) for x in (there, call(*inputs))), strict=True
    ):
        found, want = found.cpu().double(), want.double()
        error = float((found - want).abs().max() / want.abs().max())
        print(f"{name}: {error:.1e}", flush=True)
        assert error < CLOSE[inputs[0].dtype], name


def run(shape: tuple[int, int], check: bool) -> None:
    coefficients = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)

    for dtype in (torch.float32, torch.float64) if check else (torch.float32,):
        image = torch.rand(1, 3, *shape, dtype=dtype)
        factors = ops.matting_factors(image)
        compare(f"factors {dtype}", lambda i: ops.matting_factors(i), image, check=False)
        for channels in (1, 3, 8):
            x = torch.rand(1, channels, *shape, dtype=dtype)
            size = f"{channels} channels {dtype}"
            compare(f"product {size}", ops.matting_matvec, image, factors, x, check=check)
            compare(
                f"filter {size}",
                lambda *i: ops.matting_filter(*i, coefficients),
                image,
                factors,
                x,
                check=check,
            )
    for dtype in CLOSE if check else (torch.float32, torch.bfloat16):
        for channels in (3, 16, 64, 128) if check else (16, 64, 256):
            h, grad = (torch.rand(2, channels, *shape).to(dtype) for _ in range(2))
            target = torch.rand(
                1, channels, channels, dtype=torch.promote_types(dtype, torch.float32)
            )
            size = f"{channels} channels {dtype}"
            compare(f"gram {size}", ops.gram, h, check=check)
            compare(f"correction {size}", ops.gram_correction, h, target, check=check)
            compare(f"backward {size}", ops.gram_correction_backward, h, target, grad, check=check)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("sides", type=int, nargs="+")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    for side in given.sides:
        run((side, side + 2), given.check)


if __name__ == "__main__":
    main()
