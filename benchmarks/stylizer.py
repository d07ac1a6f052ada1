"""Time and peak memory of the whole Stylizer per picture, with the weights that ship.

python benchmarks/stylizer.py [--device cuda] [--sizes 0.25 1] [--json OUT]

Sizes are squares, in megapixels; the default on CUDA is 512 x 512, 1920 x 1080 and 3840 x 2160.
Style and contents are noise, since the time depends on sizes alone. "fastfcs" is the default
precision, "auto", beside float32 and the half type of the device. On CUDA the call is also
captured into a CUDA graph and replayed on copied contents; the result must equal the eager one's.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from measure import Report, Rotated, exponent, options, peak_bytes
from torch import Tensor

from fastfcs import Stylizer

STYLE = 768  # pixels per side, to which the Stylizer reduces larger styles
KINDS: dict[str, Any] = {"artistic": None, "photoreal": "photoreal"}
SHAPES = {"cpu": ((500, 500), (1000, 1000)), "cuda": ((512, 512), (1080, 1920), (2160, 3840))}


def measure(report: Report, style: Tensor, kind: str, shape: tuple[int, int]) -> None:
    size = {"kind": kind, "mp": float(f"{math.prod(shape) / 1e6:.3g}")}
    contents = Rotated(lambda: (torch.rand(1, 3, *shape, device=report.device),))

    def stylizer(precision: str) -> Stylizer:
        made = Stylizer(constraint=KINDS[kind], precision=precision)
        return made.to(report.device).set_style(style)

    module = stylizer("auto")
    report.time("picture", "fastfcs", module, contents, **size)
    for precision in ("float32", "bfloat16" if report.device == "cpu" else "float16"):
        report.time("picture", precision, stylizer(precision), contents, **size)
    memory = peak_bytes(lambda: module(*contents[0]), report.device)
    report.add({"operation": "memory", **size, "method": "fastfcs", "megabytes": memory / 1e6})
    if report.device == "cpu":
        return

    content = contents[0][0].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(content)

    def replay(other: Tensor) -> Tensor:
        content.copy_(other)
        graph.replay()
        return result

    report.time("picture", "CUDA graph", replay, contents, **size)
    difference = max(float((replay(x) - module(x)).abs().max()) for (x,) in contents[:2])
    report.add({"operation": "difference", **size, "method": "CUDA graph", "value": difference})


def judge(report: Report) -> None:
    for kind in KINDS:
        rows = report.find("picture", "fastfcs", kind=kind)
        if len(rows) > 1:
            value = exponent([row["mp"] for row in rows], [row["ms"] for row in rows])
            report.add({"operation": "exponent", "kind": kind, "method": "fastfcs", "value": value})
    graphs = report.find("picture", "CUDA graph")
    if graphs:
        report.goal("graph", min(1 / row["ratio"] for row in graphs))
    differences = report.find("difference", "CUDA graph")
    if differences:
        report.goal("same", max(row["value"] for row in differences))


@torch.no_grad()
def main() -> None:
    arguments = options(__doc__, None, "megapixels; by default those above")
    sides = [round((megapixels * 1e6) ** 0.5) for megapixels in arguments.sizes or ()]
    shapes = [(side, side) for side in sides] or SHAPES[arguments.device]
    with Report("stylizer", arguments, judge) as report:
        style = torch.rand(1, 3, STYLE, STYLE, device=arguments.device)
        module = Stylizer().to(arguments.device)
        report.time("set_style", "fastfcs", module.set_style, [(style,)], mp=STYLE**2 / 1e6)
        for kind, shape in product(KINDS, shapes):
            measure(report, style, kind, shape)


if __name__ == "__main__":
    main()
