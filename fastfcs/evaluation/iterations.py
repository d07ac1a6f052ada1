"""The number of iterations of Adam that the network is worth: its equivalent iterations.

On every pair, Adam with a step size of 0.02 minimises the loss that the network was trained on,
that of `fastfcs.solvers.solve` with the style weight of the training, from coarse to fine and with
n iterations at each of the scales that the network has (`fastfcs.pyramid`). A result's loss is the
mean of the losses at these scales, to which it, the content and the style are reduced. The
network's equivalent iterations are the n with which Adam's loss is that of the network's result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import images, pyramid
from ..checks import MIN_SIDE
from ..files import write_text
from ..network import Solver
from ..stylizer import Stylizer
from ..vgg import LOW_RANK, VGG19, load_vgg19
from ..weights import find_weights, load_network
from .compare import fingerprint
from .pairs import Pair, PairFiles
from .report import new_figure, save_figure
from .summary import Median, median

STEPS = 64
_LR = 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class _Row:
    """The losses on one pair.

    Attributes:
        pair: name of the pair.
        network: loss of the network's result.
        curve: Adam's loss with each number of iterations per scale.
        iterations: the equivalent iterations; the largest number if Adam's loss stays higher than
            the network's.
        reached: whether Adam's loss reaches the network's.
    """

    pair: str
    network: float
    curve: list[float]
    iterations: float
    reached: bool


def equivalent_iterations(
    pairs: Sequence[PairFiles],
    out: Path,
    *,
    weights: str | Path = "universal",
    refine: bool = False,
    presets: Path | None = None,
    steps: int | None = None,
    size: int | None = None,
    device: str = "cpu",
    metadata: Mapping[str, Any],
    log: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Measure the network's equivalent iterations and write iterations.json and iterations.png.

    Both losses of a pair are cached in ``out/iterations/PAIR``, so an interrupted run continues
    where it stopped and other weights reuse Adam's curve.

    Args:
        pairs: the pairs.
        out: the output folder.
        weights: the network's weights, see `fastfcs.Stylizer`.
        refine: add the refinement, see `fastfcs.Stylizer`.
        presets: a folder with a tuned preset for every style picture, for example
            the-scream.safetensors for the_scream.jpg. The network then uses the preset, and both
            losses are those of its tuning: they use its style weight and its brush.
        steps: iterations of Adam per scale, at most; None means 64. Between 1, 2, 4 ... and this
            number, the loss is interpolated.
        size: longer side, in pixels, to which larger pictures are reduced; None never reduces them.
        device: where to compute.
        metadata: the run's settings, copied into iterations.json.
        log: called with a summary of every pair.

    Returns:
        The content of iterations.json. A pair on which Adam's loss stays higher counts as ``steps``
        iterations, and "not reached" is the number of these pairs.

    Raises:
        ValueError: the weights or a preset do not record the style weight of their training.
        RuntimeError: matplotlib is not installed; everything except the plot has been written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs import images
        >>> from fastfcs.evaluation.iterations import equivalent_iterations
        >>> import tempfile, torch
        >>> from fastfcs.evaluation.pairs import find_pairs
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("content01.png", "style01.png"):
        ...     images.write(images.Picture(torch.rand(3, 16, 16)), folder / name)
        >>> pairs = find_pairs(folder)
        >>> report = equivalent_iterations(pairs, folder, weights="tiny", steps=1, metadata={})
        >>> report["iterations per scale"], report["equivalent iterations"]["pairs"]
        ([0, 1], 1)
    """
    steps = STEPS if steps is None else steps
    shared = find_weights(weights)
    style_weight = _training_setting(shared, "style weight")
    # Load the network before VGG, since this raises for a file that holds no network.
    solver = load_network(weights, refine).requires_grad_(False).to(device)
    vgg: VGG19 | None = None
    counts = sorted({0, steps, *(2**k for k in range(steps.bit_length()))})
    rows = []
    for files in pairs:
        pair = files.load(size, device)
        preset = presets and presets / f"{files.style.stem.replace('_', '-')}.safetensors"
        brush = 1.0
        if preset:
            style_weight = _training_setting(preset, "style weight")
            brush = _training_setting(preset, "brush")
        reference = images.fit(pair.style, round(brush * max(pair.content.shape[-2:])))
        judged = replace(pair, style=reference)
        vgg = vgg or load_vgg19().to(device)
        loss = partial(_loss, judged, vgg=vgg, style_weight=style_weight)

        settings = f"{size} {style_weight} {brush}"
        folder = out / "iterations" / files.name
        network_files = [shared, *([LOW_RANK] if refine else []), *([preset] if preset else [])]
        network = _cached(
            folder / "network.json",
            fingerprint(f"{settings} {refine}", [*network_files, *files.paths]),
            partial(_network_loss, solver, preset or pair.style, pair.content, loss),
        )
        curve = _cached(
            folder / "adam.json",
            fingerprint(f"{settings} {counts} {_LR}", files.paths),
            partial(_curve, judged, counts, loss, vgg=vgg, style_weight=style_weight),
        )
        iterations, reached = _crossing(counts, curve, network)
        rows.append(_Row(files.name, network, curve, iterations, reached))
        log(f"{files.name}: loss {network:.3g}, {iterations:.1f} iterations")
    equivalent = median([row.iterations for row in rows])
    relative = np.array([np.array(row.curve) / row.curve[0] for row in rows])
    relative_loss = median([row.network / row.curve[0] for row in rows])
    report = {
        **metadata,
        "style weight": style_weight,
        "iterations per scale": counts,
        "equivalent iterations": equivalent._asdict(),
        "not reached": sum(not row.reached for row in rows),
        "loss over the unchanged content's, medians": {
            "network": relative_loss._asdict(),
            "curve": np.median(relative, 0).tolist(),
        },
        "rows": [asdict(row) for row in rows],
    }
    write_text(out / "iterations.json", json.dumps(report, indent=1))
    _plot(counts, relative, relative_loss, equivalent, out / "iterations.png")
    return report


def _training_setting(path: Path, key: str) -> float:
    """A number that the header of weights or of a preset records about their training.

    Raises:
        ValueError: the header does not record it.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if key not in metadata:
        raise ValueError(f"{path} must record the {key} of its training, got none")
    return float(metadata[key])


def _cached(path: Path, origin: str, measure: Callable[[], T]) -> T:
    """The value in a file if it has the same origin; otherwise measure it and write the file."""
    try:
        cached = json.loads(path.read_text(encoding="utf-8"))
        if cached["origin"] == origin:
            return cast(T, cached["value"])
    except (OSError, ValueError, KeyError):
        pass
    value = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"origin": origin, "value": value}))
    return value


def _network_loss(
    solver: Solver, style: Tensor | Path, content: Tensor, loss: Callable[[Tensor], float]
) -> float:
    """The loss of the network's result."""
    return loss(Stylizer(style, weights=solver)(content))


def _curve(
    pair: Pair, counts: Sequence[int], loss: Callable[[Tensor], float], **options: Any
) -> list[float]:
    """The loss of Adam's result with each number of iterations per scale."""
    from ..solvers import solve

    scales = _scales(pair)
    return [
        loss(solve(pair.content, pair.style, steps=[n] * scales, method="adam", lr=_LR, **options))
        for n in counts
    ]


def _loss(pair: Pair, image: Tensor, **options: Any) -> float:
    """The loss of an image, the mean over the scales."""
    from ..solvers import solve

    totals: list[float] = []
    for octave in range(_scales(pair)):
        content, style, start = (
            pyramid.reduce(x, octave) for x in (pair.content, pair.style, image)
        )
        solve(
            content,
            style,
            steps=0,
            start=start,
            callback=lambda step, x, losses: totals.append(losses["total"]),
            **options,
        )
    return mean(totals)


def _scales(pair: Pair) -> int:
    """The number of scales at which a result is judged."""
    least = min(*pair.content.shape[-2:], *pair.style.shape[-2:])
    height, width = pair.content.shape[-2:]
    return min(len(pyramid.sizes(height, width)), 1 + int(math.log2(least / MIN_SIDE)))


def _crossing(counts: Sequence[int], curve: Sequence[float], loss: float) -> tuple[float, bool]:
    """The number of iterations at which the curve falls to the loss.

    Returns:
        The number, interpolated between two counts, and True; the last count and False if the curve
        stays higher.
    """
    for k, value in enumerate(curve):
        if value <= loss:
            if k == 0:
                return float(counts[0]), True
            part = (curve[k - 1] - loss) / (curve[k - 1] - value)
            return counts[k - 1] + part * (counts[k] - counts[k - 1]), True
    return float(counts[-1]), False


def _plot(
    counts: Sequence[int],
    relative: NDArray[Any],
    network: Median,
    equivalent: Median,
    path: Path,
) -> None:
    figure, axes = new_figure()
    low, middle, high = np.quantile(relative, [0.25, 0.5, 0.75], axis=0)
    (line,) = axes.plot(counts, middle, label="Adam: median and quartiles")
    axes.fill_between(counts, low, high, alpha=0.2, color=line.get_color())
    axes.axhline(network.value, color="C1", label="network: median and interval")
    axes.axhspan(network.low, network.high, color="C1", alpha=0.2)
    axes.axvline(equivalent.value, color="C2", label=f"equivalent iterations: {equivalent}")
    axes.axvspan(equivalent.low, equivalent.high, color="C2", alpha=0.2)
    axes.set_yscale("log")
    axes.set_xlabel("iterations of Adam per scale")
    axes.set_ylabel("loss relative to the unchanged content")
    axes.set_title(f"{equivalent.pairs} pairs, 95 % bootstrap intervals")
    axes.legend()
    save_figure(figure, path)
