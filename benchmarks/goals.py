"""What the kernels are to reach, and on which device; the benchmarks say what came of it."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    what: str
    limit: float
    unit: str
    at_most: bool = False

    @property
    def wanted(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.shown(self.limit)}"

    def met(self, value: float) -> bool:
        value = self.rounded(value)  # as it is shown: no digit that is not decides
        return value <= self.limit if self.at_most else value >= self.limit

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        return f"{self.shown(value)}, {'met' if self.met(value) else 'NOT met'}"

    def rounded(self, value: float) -> float:
        decimals = {"%": 2, "B a pixel": 0}.get(self.unit)
        return float(f"{value:.3g}") if decimals is None else round(value, decimals)

    def shown(self, value: float) -> str:
        value = self.rounded(value)
        return f"{100 * value:.0f} %" if self.unit == "%" else f"{value:.3g} {self.unit}".rstrip()


# (benchmark, device, key): goal. Filter steps and factors: float32, 3 channels, a step of order 20.
GOALS: dict[tuple[str, str, str], Goal] = {
    ("laplacian", "cpu", "torch"): Goal(
        "filter step, 1 MP, against torch's CSR product alone (MKL)", 3, "x"
    ),
    ("laplacian", "cpu", "scipy"): Goal(
        "filter step, 1 MP, against SciPy's CSR product alone", 10, "x"
    ),
    ("laplacian", "cpu", "pymatting"): Goal("factors, 1 MP, against PyMatting's assembly", 20, "x"),
    ("laplacian", "cpu", "memory"): Goal(
        "factors and filter, 1 MP, memory beyond input and output", 60, "B a pixel", True
    ),
    ("laplacian", "cpu", "exponent"): Goal(
        "filter step, growth with the number of pixels, exponent", 1.1, "", True
    ),
    ("gram", "cpu", "narrow"): Goal(
        "Gram correction, C up to 64, float32, worst case, against torch eager", 1.3, "x"
    ),
    ("gram", "cpu", "wide"): Goal(
        "Gram correction, C above 64, float32, worst case, against torch eager", 1.1, "x"
    ),
    ("laplacian", "cuda", "floor"): Goal(
        "filter step, 4 MP and more, worst case, share of the traffic floor", 0.7, "%"
    ),
    ("laplacian", "cuda", "cusparse"): Goal(
        "filter step, 4 MP and more, worst case, against a step on cuSPARSE", 8, "x"
    ),
    ("laplacian", "cuda", "overhead"): Goal(
        "factors, product, filter of a tiny image: host's time a call, worst case", 20, "µs", True
    ),
    ("laplacian", "cuda", "exponent"): Goal(
        "filter step, growth with the number of pixels, exponent", 1.1, "", True
    ),
    ("gram", "cuda", "floor"): Goal(
        "Gram correction, C up to 64, h of 64 MB and more, worst case, share of the traffic floor",
        0.8,
        "%",
    ),
    ("gram", "cuda", "bound"): Goal(
        "the same, share of the traffic floor or, where higher, of the arithmetic's", 0.8, "%"
    ),
    ("gram", "cuda", "backward"): Goal(
        "its backward, share of the traffic floor or, where higher, of the arithmetic's", 0.8, "%"
    ),
    ("gram", "cuda", "eager"): Goal(
        "Gram correction, C up to 64, h of 64 MB and more, worst case, against torch eager", 2, "x"
    ),
    ("gram", "cuda", "compile"): Goal("the same, against torch.compile", 1.3, "x"),
    ("gram", "cuda", "wide"): Goal(
        "Gram correction, C above 64, worst case, against torch eager (cuBLAS)", 1, "x"
    ),
    ("gram", "cuda", "overhead"): Goal(
        "Gram operators on tiny features: host's time a call, worst case", 20, "µs", True
    ),
    ("stylizer", "cuda", "graph"): Goal(
        "whole Stylizer as a CUDA graph, worst case, against eager", 1, "x"
    ),
    ("stylizer", "cuda", "same"): Goal(
        "whole Stylizer as a CUDA graph, largest difference from eager", 1e-6, "", True
    ),
}
