"""Methods to compare, by name: each is a function from a pair to its restyled content."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import images
from ..constraints import Photoreal
from ..filters import LowPass
from ..network import UnrolledSolver
from ..refinement import RefinedSolver, load_network
from ..stylizer import Stylizer
from ..vgg import LOW_RANK, VGG19, load_vgg19
from ..weights import find_weights
from .pairs import Pair

PAINTED = ("content", "artistic")
DEFAULT = (*PAINTED, "photoreal", "photoreal:0.001,0.1,1")
# Of the projected gradient: what goes below Luan et al.'s Gram distance on their pairs.
_PROJECTED: dict[str, Any] = {
    "method": "adam",
    "constraint": "photoreal",
    "cutoff": 0.3,
    "style_weight": 75.0,
    "structure_weight": 10.0,
    "steps": (100, 30, 8),
}
_LUAN_WEIGHT = 1e4  # of the energy, as `fastfcs.solvers` has it


@dataclass(frozen=True)
class Method:
    """One way to restyle.

    Attributes:
        name: as given, "photoreal:0.01" and the like; unique among the methods compared.
        apply: Pair -> (1, 3, H, W) in [0, 1].
        depends: whatever else its results depend on, in words.
        family: methods that differ in their cut-off only.
        cutoff: of the low-pass; None where there is none.
        pattern: of the files of somebody's results, * standing for the pair's name.
    """

    name: str
    apply: Callable[[Pair], Tensor]
    depends: str = ""
    family: str = ""
    cutoff: float | None = None
    pattern: str | None = None

    def file(self, pair: str) -> Path | None:
        """Where somebody's result for a pair is."""
        return None if self.pattern is None else Path(self.pattern.replace("*", pair))


def methods(
    names: Sequence[str],
    *,
    weights: str | Path = "universal",
    refine: bool = False,
    steps: int | Sequence[int] | None = None,
    precision: str | None = None,
    device: str = "cpu",
) -> list[Method]:
    """The methods of these names.

    content             the content, unchanged
    artistic            the network
    photoreal[:C,...]   the network, projected after every update; one method for each cut-off C
    regional[:C,...]    the same with each region in the style of its namesake, where masks are
    gatys               `fastfcs.solvers`, L-BFGS (Gatys et al. 2016)
    luan                the same with the matting energy and, with masks, region by region
                        (Luan et al. 2017)
    projected[:C,...]   Adam, projected after every step (Puy and Pérez 2018), coarse to fine, with
                        a weight on the structure
    NAME=FOLDER/x*.png  somebody's results, * standing for the pair's name

    Args:
        weights, refine: of the network, see `fastfcs.Stylizer`.
        steps, precision: of the iterative solvers; by default their own.

    Raises:
        ValueError: a name that is none of these, or given twice; what `Stylizer` refuses.
        FileNotFoundError: no such weights.
    """
    known = _Known(weights, refine, {"steps": steps, "precision": precision}, device)
    found = [method for name in names for method in _parse(name, known)]
    for method in found:
        if [other.name for other in found].count(method.name) > 1:
            raise ValueError(f"method {method.name!r} is given twice")
    return found


class _Known:
    """The methods that the package has; networks are read once, not timed."""

    def __init__(
        self, weights: str | Path, refine: bool, options: dict[str, Any], device: str
    ) -> None:
        self._weights, self._refine, self._device = weights, refine, device
        self._options = {key: value for key, value in options.items() if value is not None}

    @cached_property
    def _solver(self) -> UnrolledSolver | RefinedSolver:
        return load_network(self._weights, self._refine).requires_grad_(False).to(self._device)

    @cached_property
    def _vgg(self) -> VGG19:
        return load_vgg19().to(self._device)

    def content(self) -> Method:
        return Method("content", lambda pair: pair.content)

    def artistic(self) -> Method:
        return self._network("artistic")

    def photoreal(self, cutoff: float | None = None) -> Method:
        return self._projected("photoreal", cutoff)

    def regional(self, cutoff: float | None = None) -> Method:
        return self._projected("regional", cutoff, by_region=True)

    def _projected(self, name: str, cutoff: float | None, **options: Any) -> Method:
        default = inspect.signature(Photoreal).parameters["cutoff"].default
        named = name if cutoff is None else f"{name}:{cutoff:g}"
        return self._network(named, cutoff or default, constraint="photoreal", **options)

    def gatys(self) -> Method:
        return self._iterative("gatys", lambda pair: {"method": "lbfgs"})

    def luan(self) -> Method:
        def options(pair: Pair) -> dict[str, Any]:
            regions = pair.regions and (pair.regions.content, pair.regions.style)
            return {"method": "lbfgs", "matting_weight": _LUAN_WEIGHT, "regions": regions}

        return self._iterative("luan", options)

    def projected(self, cutoff: float | None = None) -> Method:
        named = "projected" if cutoff is None else f"projected:{cutoff:g}"
        options = _PROJECTED if cutoff is None else {**_PROJECTED, "cutoff": cutoff}
        return self._iterative(named, lambda pair: options, options["cutoff"])

    def _network(
        self, name: str, cutoff: float | None = None, by_region: bool = False, **options: Any
    ) -> Method:
        files = [find_weights(self._weights)]
        if self._refine:
            files.append(LOW_RANK)
        if cutoff is not None:
            options["cutoff"] = cutoff
        stylizer = Stylizer(weights=self._solver, **options)

        def apply(pair: Pair) -> Tensor:
            regions = pair.regions if by_region else None
            stylizer.set_style(pair.style, regions=regions and regions.style)
            return stylizer(pair.content, regions and regions.content)

        read = " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
        depends = f"{read} {options} {by_region}" + (" refined" if self._refine else "")
        return Method(name, apply, depends, name.split(":")[0], cutoff)

    def _iterative(
        self, name: str, options: Callable[[Pair], dict[str, Any]], cutoff: float | None = None
    ) -> Method:
        vgg = self._vgg

        def apply(pair: Pair) -> Tensor:
            from ..solvers import solve

            return solve(pair.content, pair.style, vgg=vgg, **{**options(pair), **self._options})

        depends = f"{cutoff} {self._options} {_PROJECTED if name.startswith('projected') else ''}"
        return Method(name, apply, depends, name.split(":")[0], cutoff)


_KNOWN = ("content", "artistic", "photoreal", "regional", "gatys", "luan", "projected")
_WITH_CUTOFF = ("photoreal", "regional", "projected")


def _parse(given: str, known: _Known) -> list[Method]:
    name, equals, pattern = given.partition("=")
    if equals:
        return [_results(name, pattern)]
    name, colon, cutoffs = given.partition(":")
    if name not in _KNOWN or (colon and name not in _WITH_CUTOFF):
        raise ValueError(
            f"method must be one of {', '.join(_KNOWN)}, {', '.join(_WITH_CUTOFF)} followed by "
            f":CUTOFF, or NAME=FOLDER/x*.png, not {given!r}"
        )
    if not colon:
        return [getattr(known, name)()]
    try:
        values = [float(text) for text in cutoffs.split(",")]
    except ValueError as error:
        raise ValueError(f"method {given!r} must have numbers after the colon") from error
    for value in values:
        LowPass(value)  # refuses it now, not at the first pair
    return [getattr(known, name)(value) for value in values]


def _results(name: str, pattern: str) -> Method:
    if not re.fullmatch(r"\w[\w.-]*", name) or name in (*_KNOWN, "style"):
        raise ValueError(f"method {name!r}: somebody's results need a name of their own")
    if "*" not in pattern:
        raise ValueError(f"method {name}: {pattern!r} has no * that stands for the pair's name")

    def apply(pair: Pair) -> Tensor:
        image = images.read(pattern.replace("*", pair.name)).pixels[None]
        return images.fit(image, max(pair.content.shape[-2:])).to(pair.content)

    return Method(name, apply, pattern=pattern)
