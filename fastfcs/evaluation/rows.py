"""One result of an evaluation, and its form in JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_SUMMARY = ("gram", "multiscale_gram", "region_gram", "ssim", "energy", "seconds")


@dataclass(frozen=True)
class Row:
    """The measures of one method on one pair, see `fastfcs.evaluation.metrics.Measures`.

    Attributes:
        pair: name of the pair.
        method: name of the method.
        origin: fingerprint of everything that the result depends on.
        width: width of the content, pixels.
        height: height of the content, pixels.
        resized_from: (width, height) of a result whose size was not the content's, else None.
        seconds: time of the method; None if it ran nothing.
        megabytes: peak memory of the method, MB; None if it ran nothing or if that is unavailable.
        gram: Gram distance to the style.
        multiscale_gram: mean Gram distance over ``scales``.
        scales: Gram distance at full size, 1/2, 1/4 and 1/8 of it.
        ratio: the distance at full size relative to the unchanged content's; None if that is 0.
        region_gram: mean Gram distance of the regions; None without masks.
        regions: Gram distance of every region by the name of its colour.
        ssim: SSIM between gradient magnitudes.
        energy: matting energy.
        lpips: LPIPS to the content; None without the package lpips.

    Examples:
        >>> from fastfcs.evaluation.rows import Row
        >>> values = {"pair": "01", "method": "content", "origin": "", "width": 64, "height": 48}
        >>> costs = {"seconds": None, "megabytes": None}
        >>> style = {"gram": 0.5, "multiscale_gram": 0.6, "scales": [0.5, 0.7], "ratio": 1.0}
        >>> regions = {"region_gram": None, "regions": {}}
        >>> structure = {"ssim": 1.0, "energy": 9e-8, "lpips": None}
        >>> row = Row.from_json(values | costs | style | regions | structure)
        >>> row.summary()
        'gram 0.5, multiscale_gram 0.6, ssim 1, energy 9e-08'
        >>> Row.from_json(row.to_json()) == row
        True
    """

    pair: str
    method: str
    origin: str
    width: int
    height: int
    resized_from: tuple[int, int] | None
    seconds: float | None
    megabytes: float | None
    gram: float
    multiscale_gram: float
    scales: list[float]
    ratio: float | None
    region_gram: float | None
    regions: dict[str, float]
    ssim: float
    energy: float
    lpips: float | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Build a row from the object that `to_json` returned.

        Args:
            values: the object; keys other than a row's are ignored.

        Returns:
            The row.

        Raises:
            KeyError: a key is missing.
        """
        size = values.get("resized from")
        others = {f.name: values[f.name] for f in fields(cls) if f.name != "resized_from"}
        return cls(**others, resized_from=size and (size[0], size[1]))

    def to_json(self) -> dict[str, Any]:
        """Convert the row to an object for `json.dumps`.

        Returns:
            The attributes by name, in order; ``resized_from`` under the key "resized from", only if
            the result was resized.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.resized_from is None:
            del values["resized_from"]
        return {key.replace("resized_from", "resized from"): values[key] for key in values}

    def metric(self, name: str) -> float | None:
        """Look up a measure by name.

        Args:
            name: a key of `fastfcs.evaluation.metrics.METRICS`.

        Returns:
            The measure, or None if it is not available for this result.
        """
        value: float | None = getattr(self, name)
        return value

    def summary(self) -> str:
        """Format the most informative measures.

        Returns:
            Names and values of the available ones, separated by commas.
        """
        values = ((name, self.metric(name)) for name in _SUMMARY)
        return ", ".join(f"{name} {value:.3g}" for name, value in values if value is not None)


def file_name(method: str) -> str:
    """Convert the name of a method to the stem of its files.

    Args:
        method: for example "photoreal:0.1".

    Returns:
        The name without characters that file systems reserve.

    Examples:
        >>> from fastfcs.evaluation.rows import file_name
        >>> file_name("photoreal:0.1")
        'photoreal-0.1'
    """
    return method.replace(":", "-")
