"""The whole Stylizer, shipped weights, float32: milliseconds a picture and peak memory.

python benchmarks/stylizer.py [--device cuda] [--sizes 0.25 1] [--json OUT]

Sizes are squares, in megapixels; on CUDA by default 512 x 512, 1920 x 1080 and 3840 x 2160. Style
and contents are noise: the time depends on sizes alone. On CUDA also captured into a CUDA graph and
replayed, the content copied in; its result must be the eager one's.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from measure import Report, Rotated, exponent, options, peak_bytes
from torch import Tensor

from fastfcs import Stylizer

STYLE = 768  # pixels, a side: what larger styles are reduced to
KINDS: dict[str, Any] = {"artistic": None, "photoreal": "photoreal"}
SHAPES = {"cpu": ((500, 500), (1000, 1000)), "cuda": ((512, 512), (1080, 1920), (2160, 3840))}


def measure(report: Report, style: Tensor, kind: str, shape: tuple[int, int]) -> None:
    size = {"kind": kind, "mp": float(f"{math.prod(shape) / 1e6:.3g}")}
    contents = Rotated(lambda: (torch.rand(1, 3, *shape, device=report.device),))
    module = Stylizer(constraint=KINDS[kind]).to(report.device).set_style(style)
    report.time("picture", "fastfcs", module, contents, **size)
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
            grows = exponent([row["mp"] for row in rows], [row["ms"] for row in rows])
            report.add({"operation": "exponent", "kind": kind, "method": "fastfcs", "value": grows})
    graphs = report.find("picture", "CUDA graph")
    if graphs:
        report.goal("graph", min(1 / row["ratio"] for row in graphs))
    differences = report.find("difference", "CUDA graph")
    if differences:
        report.goal("same", max(row["value"] for row in differences))


@torch.no_grad()
def main() -> None:
    given = options(__doc__, None, "megapixels, by default those above")
    sides = [round((megapixels * 1e6) ** 0.5) for megapixels in given.sizes or ()]
    shapes = [(side, side) for side in sides] or SHAPES[given.device]
    with Report("stylizer", given, judge) as report:
        style = torch.rand(1, 3, STYLE, STYLE, device=given.device)
        module = Stylizer().to(given.device)
        report.time("set_style", "fastfcs", module.set_style, [(style,)], mp=STYLE**2 / 1e6)
        for kind, shape in product(KINDS, shapes):
            measure(report, style, kind, shape)


if __name__ == "__main__":
    main()
