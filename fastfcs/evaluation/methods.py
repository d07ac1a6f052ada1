"""The methods to compare, by name: functions from a pair to its restyled content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import images
from ..constraints.photoreal import CUTOFF
from ..filters import LowPass
from ..network import Solver
from ..stylizer import Stylizer
from ..vgg import LOW_RANK, VGG19, load_vgg19
from ..weights import find_weights, load_network
from .pairs import Pair

DEFAULT = ("content", "artistic", "photoreal", "photoreal:0.001,0.1,1")
# Options of "projected", chosen so that its Gram distance on Luan et al.'s pairs is below theirs.
_PROJECTED: dict[str, Any] = {
    "method": "adam",
    "constraint": "photoreal",
    "cutoff": 0.3,
    "style_weight": 75.0,
    "structure_weight": 10.0,
    "steps": (100, 30, 8),
}
_LUAN_WEIGHT = 1e4  # weight of the matting energy, see `fastfcs.solvers.solve`


@dataclass(frozen=True)
class Method:
    """A way to restyle the content of a pair.

    Attributes:
        name: for example "photoreal:0.01"; unique among the methods compared.
        apply: Pair -> result (1, 3, H, W) in [0, 1].
        dependencies: text that identifies everything that the results depend on besides name, pair
            and size.
        family: name shared by methods that differ only in their cutoff; "" for external results.
        cutoff: cutoff of the low-pass filter; None without one.
        pattern: path of external results, with * for the pair's name; None for other methods.

    Examples:
        >>> from fastfcs.evaluation.methods import Method
        >>> method = Method("theirs", lambda pair: pair.content, pattern="results/*.png")
        >>> method.file("01").name
        '01.png'
    """

    name: str
    apply: Callable[[Pair], Tensor]
    dependencies: str = ""
    family: str = ""
    cutoff: float | None = None
    pattern: str | None = None

    def file(self, pair: str) -> Path | None:
        """Return the path of the external result for a pair.

        Args:
            pair: the pair's name.

        Returns:
            The path, which need not exist; None if the method computes its results.
        """
        return None if self.pattern is None else Path(self.pattern.replace("*", pair))


def select_methods(
    names: Sequence[str],
    *,
    weights: str | Path = "universal",
    refine: bool | None = None,
    steps: int | Sequence[int] | None = None,
    precision: str | None = None,
    device: str = "cpu",
) -> list[Method]:
    """Select methods by name.

    The names are

        content             the content, unchanged
        artistic            the network
        photoreal[:C,...]   the network with the constraint "photoreal"; one method per cutoff C
        regional[:C,...]    the same; with masks, region by region
        gatys               `fastfcs.solvers.solve` with L-BFGS (Gatys et al. 2016)
        luan                the same with the matting energy and, with masks, one Gram matrix per
                            region (Luan et al. 2017)
        projected[:C,...]   Adam, projected after every step (Puy and Pérez 2018), from coarse to
                            fine, with a structure loss
        NAME=FOLDER/x*.png  external results; * stands for the pair's name

    Args:
        names: any of the above.
        weights: the network's weights, see `fastfcs.Stylizer`.
        refine: whether the network's methods have the refinement; by default, those that make
            photographs have it, see `fastfcs.Stylizer`.
        steps: iterations of the iterative solvers; None stands for their defaults.
        precision: precision of the iterative solvers; None stands for their default.
        device: where to compute.

    Returns:
        The methods, in the order of the names.

    Raises:
        ValueError: a name is none of these or occurs twice, or `fastfcs.Stylizer` raises it.
        FileNotFoundError: there are no such weights.

    Examples:
        >>> from fastfcs.evaluation.methods import select_methods
        >>> methods = select_methods(["content", "photoreal:0.1,1"], weights="tiny")
        >>> [(method.name, method.cutoff) for method in methods]
        [('content', None), ('photoreal:0.1', 0.1), ('photoreal:1', 1.0)]
    """
    builtin = _BuiltIn(weights, refine, {"steps": steps, "precision": precision}, device)
    methods = [method for name in names for method in _parse(name, builtin)]
    unique = [method.name for method in methods]
    for name in unique:
        if unique.count(name) > 1:
            raise ValueError(f"method must not be repeated, got {name!r} twice")
    return methods


class _BuiltIn:
    """The package's own methods; networks are loaded outside the measured time."""

    def __init__(
        self, weights: str | Path, refine: bool | None, options: dict[str, Any], device: str
    ) -> None:
        self._weights, self._refine, self._device = weights, refine, device
        self._options = {key: value for key, value in options.items() if value is not None}

    def _solver(self, refined: bool) -> Solver:
        return load_network(self._weights, refined).requires_grad_(False).to(self._device)

    @cached_property
    def _vgg(self) -> VGG19:
        return load_vgg19().to(self._device)

    def content(self) -> Method:
        return Method("content", lambda pair: pair.content)

    def artistic(self) -> Method:
        return self._network("artistic")

    def photoreal(self, cutoff: float | None = None) -> Method:
        return self._photoreal("photoreal", cutoff)

    def regional(self, cutoff: float | None = None) -> Method:
        return self._photoreal("regional", cutoff, by_region=True)

    def gatys(self) -> Method:
        return self._iterative("gatys", lambda pair: {"method": "lbfgs"})

    def luan(self) -> Method:
        def options(pair: Pair) -> dict[str, Any]:
            regions = pair.regions and (pair.regions.content, pair.regions.style)
            return {"method": "lbfgs", "matting_weight": _LUAN_WEIGHT, "regions": regions}

        return self._iterative("luan", options)

    def projected(self, cutoff: float | None = None) -> Method:
        name = "projected" if cutoff is None else f"projected:{cutoff:g}"
        options = _PROJECTED if cutoff is None else {**_PROJECTED, "cutoff": cutoff}
        return self._iterative(name, lambda pair: options, options["cutoff"])

    def _photoreal(self, family: str, cutoff: float | None, by_region: bool = False) -> Method:
        name = family if cutoff is None else f"{family}:{cutoff:g}"
        return self._network(name, cutoff or CUTOFF, by_region, constraint="photoreal")

    def _network(
        self, name: str, cutoff: float | None = None, by_region: bool = False, **options: Any
    ) -> Method:
        files = [find_weights(self._weights)]
        refined = cutoff is not None if self._refine is None else self._refine
        if refined:
            files.append(LOW_RANK)
        if cutoff is not None:
            options["cutoff"] = cutoff
        stylizer = Stylizer(weights=self._solver(refined), **options)

        def apply(pair: Pair) -> Tensor:
            regions = pair.regions if by_region else None
            stylizer.set_style(pair.style, regions=regions and regions.style)
            result: Tensor = stylizer(pair.content, regions and regions.content)
            return result

        hashes = " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
        dependencies = f"{hashes} {options} {by_region}" + (" refined" if refined else "")
        return Method(name, apply, dependencies, name.split(":")[0], cutoff)

    def _iterative(
        self, name: str, options: Callable[[Pair], dict[str, Any]], cutoff: float | None = None
    ) -> Method:
        vgg = self._vgg

        def apply(pair: Pair) -> Tensor:
            from ..solvers import solve

            return solve(pair.content, pair.style, vgg=vgg, **{**options(pair), **self._options})

        family = name.split(":")[0]
        projected = _PROJECTED if family == "projected" else ""
        return Method(name, apply, f"{cutoff} {self._options} {projected}", family, cutoff)


_BUILTIN = ("content", "artistic", "photoreal", "regional", "gatys", "luan", "projected")
_WITH_CUTOFF = ("photoreal", "regional", "projected")


def _parse(text: str, builtin: _BuiltIn) -> list[Method]:
    name, equals, pattern = text.partition("=")
    if equals:
        return [_external(name, pattern)]
    name, colon, cutoffs = text.partition(":")
    if name not in _BUILTIN or (colon and name not in _WITH_CUTOFF):
        raise ValueError(
            f"method must be one of {', '.join(_BUILTIN)}, {', '.join(_WITH_CUTOFF)} followed by "
            f":CUTOFF, or NAME=FOLDER/x*.png, got {text!r}"
        )
    if not colon:
        return [getattr(builtin, name)()]
    try:
        values = [float(number) for number in cutoffs.split(",")]
    except ValueError as error:
        raise ValueError(f"method must have numbers after the colon, got {text!r}") from error
    for value in values:
        LowPass(value)  # raises for a wrong cutoff now, before the first pair is restyled
    return [getattr(builtin, name)(value) for value in values]


def _external(name: str, pattern: str) -> Method:
    if not re.fullmatch(r"\w[\w.-]*", name) or name in (*_BUILTIN, "style"):
        raise ValueError(
            "method must be NAME=FOLDER/x*.png with a new NAME of letters, digits, _, . and -, "
            f"got NAME {name!r}"
        )
    if "*" not in pattern:
        raise ValueError(
            f"method must be NAME=FOLDER/x*.png with a * for the pair's name, got {pattern!r}"
        )

    def apply(pair: Pair) -> Tensor:
        image = images.read(pattern.replace("*", pair.name)).srgb[None]
        return images.fit(image, max(pair.content.shape[-2:])).to(pair.content)

    return Method(name, apply, pattern=pattern)
