"""Performance goals of the kernels, by benchmark and device, and the verdict on a measurement."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    """A bound on one measured number.

    Attributes:
        what: the quantity, in the words of the table in docs/benchmarks.md.
        limit: the bound, in ``unit``.
        unit: "x", "%" (of a limit given as a fraction), "µs", "B per pixel", or "" for none.
        at_most: whether the limit is an upper bound instead of a lower one.
    """

    what: str
    limit: float
    unit: str
    at_most: bool = False

    @property
    def target(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.shown(self.limit)}"

    def met(self, value: float) -> bool:
        value = self.rounded(value)  # a digit that is not shown must not decide
        return value <= self.limit if self.at_most else value >= self.limit

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        return f"{self.shown(value)}, {'met' if self.met(value) else 'NOT met'}"

    def rounded(self, value: float) -> float:
        decimals = {"%": 2, "B per pixel": 0}.get(self.unit)
        return float(f"{value:.3g}") if decimals is None else round(value, decimals)

    def shown(self, value: float) -> str:
        value = self.rounded(value)
        return f"{100 * value:.0f} %" if self.unit == "%" else f"{value:.3g} {self.unit}".rstrip()


# (benchmark, device, key): goal. Filter steps and factors are in float32 with 3 channels; a step is
# that of a filter of order 20.
#
# The Gram correction on CUDA reads h twice, since G - H must be known before the first row of the
# result. The floor of 2 |h| is reachable only if the second pass finds h in the L2 cache.
# Otherwise two passes move 3 |h| (backward 5 |h|, h and the gradient twice, against a floor of
# 3 |h|): 80 % of that traffic is 53 % (48 %) of the floor. If true float32 arithmetic takes
# longer than the traffic, at C = 64 and in the backward pass mostly from C = 32 on, the model in
# docs/kernels.md predicts 73 % of the rate of matrix products, so the goal is 70 %. The time of
# the launches is a goal of its own and is subtracted before the others are judged.
GOALS: dict[tuple[str, str, str], Goal] = {
    ("laplacian", "cpu", "torch"): Goal(
        "filter step, 1 MP, against torch's CSR product alone (MKL)", 3, "x"
    ),
    ("laplacian", "cpu", "scipy"): Goal(
        "filter step, 1 MP, against SciPy's CSR product alone", 10, "x"
    ),
    ("laplacian", "cpu", "pymatting"): Goal("factors, 1 MP, against PyMatting's assembly", 20, "x"),
    ("laplacian", "cpu", "memory"): Goal(
        "factors and filter, 1 MP, memory beyond input and output", 60, "B per pixel", True
    ),
    ("laplacian", "cpu", "exponent"): Goal(
        "filter step, growth with the number of pixels, exponent", 1.1, "", True
    ),
    ("gram", "cpu", "megapixel"): Goal(
        "Gram correction, C of 16 to 64, 1 MP, float32, worst case, against torch eager", 1.3, "x"
    ),
    ("gram", "cpu", "narrow"): Goal("the same, all sizes and batches, worst case", 1.3, "x"),
    ("gram", "cpu", "wide"): Goal("C above 64, all sizes and batches, worst case", 1.1, "x"),
    ("laplacian", "cuda", "floor"): Goal(
        "filter step, 4 MP and more, worst case, share of the traffic floor", 0.7, "%"
    ),
    ("laplacian", "cuda", "cusparse"): Goal(
        "filter step, 4 MP and more, worst case, against a step on cuSPARSE", 8, "x"
    ),
    ("laplacian", "cuda", "overhead"): Goal(
        "factors, product, filter of a tiny image: host time per call, worst case", 20, "µs", True
    ),
    ("laplacian", "cuda", "exponent"): Goal(
        "filter step, growth with the number of pixels, exponent", 1.1, "", True
    ),
    ("gram", "cuda", "correction resident"): Goal(
        "Gram correction, C up to 64, h of 16 MB to half of L2, worst, share of the floor of 2 x h",
        0.8,
        "%",
    ),
    ("gram", "cuda", "correction streamed"): Goal(
        "the same, larger h, share of the 3 x h that two passes move (80 %: 53 % of the floor)",
        0.8,
        "%",
    ),
    ("gram", "cuda", "backward resident"): Goal(
        "its backward, h and gradient of 16 MB to half of L2, share of the floor of 3 x h", 0.8, "%"
    ),
    ("gram", "cuda", "backward streamed"): Goal(
        "the same, larger, share of the 5 x h that two passes move (80 %: 48 % of the floor)",
        0.8,
        "%",
    ),
    ("gram", "cuda", "correction arithmetic"): Goal(
        "Gram correction, float32, where arithmetic takes longer than traffic: share of its rate",
        0.7,
        "%",
    ),
    ("gram", "cuda", "backward arithmetic"): Goal("its backward, share of the rate", 0.7, "%"),
    ("gram", "cuda", "launches"): Goal(
        "launches of Gram correction and backward, 4096 pixels, C = 16, worst case", 12, "µs", True
    ),
    ("gram", "cuda", "eager"): Goal(
        "Gram correction, C up to 64, h of 64 MB and more, worst case, against torch eager", 2, "x"
    ),
    ("gram", "cuda", "compile"): Goal("the same, against torch.compile", 1.3, "x"),
    ("gram", "cuda", "wide"): Goal(
        "Gram correction, C above 64, worst case, against torch eager (cuBLAS)", 1, "x"
    ),
    ("gram", "cuda", "overhead"): Goal(
        "Gram operators on tiny features: host time per call, worst case", 20, "µs", True
    ),
    ("stylizer", "cuda", "graph"): Goal(
        "whole Stylizer as a CUDA graph, worst case, against eager", 1, "x"
    ),
    ("stylizer", "cuda", "same"): Goal(
        "whole Stylizer as a CUDA graph, largest difference from eager", 1e-6, "", True
    ),
}
