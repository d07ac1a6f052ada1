"""Medians over pairs, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .metrics import METRICS
from .rows import Row

_RESAMPLES = 10_000


class Median(NamedTuple):
    """A median over pairs.

    Attributes:
        value: the median.
        low: lower end of its 95 % bootstrap interval.
        high: upper end of the interval.
        pairs: number of pairs.

    Examples:
        >>> from fastfcs.evaluation.summary import Median
        >>> str(Median(0.25, 0.125, 0.5, pairs=9))
        '0.25 [0.125, 0.5]'
    """

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


Medians: TypeAlias = dict[str, dict[str, Median]]
"""Medians by method and measure; measures without values are left out."""


def median(values: Sequence[float]) -> Median:
    """Compute a median with the interval of the percentile bootstrap (Efron 1979).

    Args:
        values: one per pair, at least one.

    Returns:
        The median and its interval, the same on every call.

    Examples:
        >>> from fastfcs.evaluation.summary import median
        >>> median([3.0, 1.0, 2.0])
        Median(value=2.0, low=1.0, high=3.0, pairs=3)
    """
    sample = np.asarray(values, dtype=np.float64)
    indices = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    low, high = np.quantile(np.median(sample[indices], axis=1), [0.025, 0.975])
    return Median(float(np.median(sample)), float(low), float(high), len(sample))


def medians(rows: Iterable[Row]) -> Medians:
    """Compute the medians over the pairs for every method and measure.

    Args:
        rows: the results.

    Returns:
        The medians, methods in order of appearance.

    Examples:
        >>> from fastfcs.evaluation.rows import Row
        >>> from fastfcs.evaluation.summary import medians
        >>> numbers = {"ratio": None, "region_gram": None, "regions": {}, "lpips": None}
        >>> numbers |= {"multiscale_gram": 0.6, "scales": [0.5, 0.7]}
        >>> numbers |= {"seconds": None, "megabytes": None, "gram": 0.5, "ssim": 1, "energy": 0}
        >>> row = Row("01", "content", "", 64, 48, None, **numbers)
        >>> medians([row])["content"]["gram"].value
        0.5
    """
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    result: Medians = {}
    for method, its_rows in by_method.items():
        result[method] = {}
        for name in METRICS:
            values = [v for v in (row.metric(name) for row in its_rows) if v is not None]
            if values:
                result[method][name] = median(values)
    return result
