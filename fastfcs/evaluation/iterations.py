"""How many iterations of descent is the network worth?

On each pair the network's result after its N updates is scored by the loss that it was trained to
lower, `fastfcs.optimize`'s with the style weight of the training; and Adam at a rate of 0.02 lowers
the same loss from the same start, the content. The network is worth as many iterations as Adam
takes to come as low.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import images
from ..network import UnrolledSolver
from ..refinement import RefinedSolver, load_network
from ..stylizer import Stylizer
from ..vgg import LOW_RANK, VGG19, load_vgg19
from ..weights import find_weights
from .compare import fingerprint, write_text
from .pairs import Pair, PairFiles
from .report import Median, median, new_figure, save_figure

STEPS = 200
_LR = 0.02


def _trained(path: Path, fact: str) -> float:
    """What the header of weights or of a preset tells of its training.

    Raises:
        ValueError: it does not.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = file.metadata() or {}
    if fact not in facts:
        raise ValueError(f"weights: {path} does not say the {fact} of its training")
    return float(facts[fact])


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
    facts: dict[str, Any],
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Write iterations.json and iterations.png into ``out``; what the former holds.

    Of each pair ``iterations/NAME`` keeps both numbers, so that an interrupted run goes on where it
    was, and Adam's curve serves other weights.
    Where Adam does not come as low within ``steps`` (default 200), their number counts, and
    "not reached" says for how many pairs.

    Args:
        weights, refine: of the network, see `fastfcs.Stylizer`.
        presets: a folder with a tuned preset for each style picture, the-scream.safetensors for
            the_scream.jpg: the network's result is the preset's, and the loss, for Adam too, is the
            one that it was tuned for: its style weight, the picture at its style size.

    Raises:
        ValueError: weights or presets that do not tell what they were trained for.
        RuntimeError: matplotlib is not installed; all but the plot is written then.
    """
    steps = STEPS if steps is None else steps
    shared = find_weights(weights)
    weight = _trained(shared, "style weight")
    # Read early, for it refuses what is not weights.
    solver = load_network(weights, refine).requires_grad_(False).to(device)
    vgg: VGG19 | None = None
    rows = []
    for files in pairs:
        pair = files.load(size, device)
        tuned = presets and presets / f"{files.style.stem.replace('_', '-')}.safetensors"
        if tuned:
            weight, style_size = _trained(tuned, "style weight"), _trained(tuned, "style size")
            style = images.fit(images.read(files.style).pixels[None], int(style_size))
            pair = replace(pair, style=style.to(device))
        vgg = vgg or load_vgg19().to(device)
        losses = partial(_losses, pair, vgg=vgg, style_weight=weight)

        setting = f"{size} {weight} {tuple(pair.style.shape)}"
        kept = out / "iterations" / files.name
        by = [shared, *([LOW_RANK] if refine else []), *([tuned] if tuned else []), *files.paths]
        row: dict[str, Any] = {
            "pair": files.name,
            "network": _kept(
                kept / "network.json",
                fingerprint(f"{setting} {refine}", by),
                partial(_after_updates, solver, tuned or pair.style, pair.content, losses),
            ),
            "curve": _kept(
                kept / "adam.json",
                fingerprint(f"{setting} {steps} {_LR}", files.paths),
                partial(losses, steps),
            ),
        }
        rows.append({**row, **_crossing(row["curve"], row["network"])})
        say(f"{files.name}: loss {row['network']:.3g}, {rows[-1]['iterations']} iterations")
    worth = median([row["iterations"] for row in rows])
    relative = np.array([np.array(row["curve"]) / row["curve"][0] for row in rows])
    network = median([row["network"] / row["curve"][0] for row in rows])
    report = {
        **facts,
        "updates": solver.updates,
        "style weight": weight,
        "steps": steps,
        "equivalent iterations": worth._asdict(),
        "not reached": sum(not row["reached"] for row in rows),
        "loss over the unchanged content's, medians": {
            "network": network._asdict(),
            "curve": np.median(relative, 0).tolist(),
        },
        "rows": rows,
    }
    write_text(out / "iterations.json", json.dumps(report, indent=1))
    _plot(relative, network, worth, out / "iterations.png")
    return report


def _kept(path: Path, origin: str, measure: Callable[[], Any]) -> Any:
    """What was measured before, if it had the same origin, else what is measured now."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None or found["origin"] != origin:
        found = {"origin": origin, "found": measure()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found))
    return found["found"]


def _after_updates(
    solver: UnrolledSolver | RefinedSolver,
    style: Tensor | Path,
    content: Tensor,
    losses: Callable[..., Any],
) -> float:
    """The loss of the network's result."""
    result = Stylizer(style, weights=solver)(content)
    return losses(0, start=result)[0]  # type: ignore[no-any-return]


def _losses(pair: Pair, steps: int, **options: Any) -> list[float]:
    """The loss after 0 ... ``steps`` iterations of Adam."""
    from ..solvers import solve

    found: list[float] = []
    solve(
        pair.content,
        pair.style,
        steps=steps,
        method="adam",
        lr=_LR,
        callback=lambda step, image, losses: found.append(losses["total"]),
        **options,
    )
    return found


def _crossing(curve: Sequence[float], loss: float) -> dict[str, Any]:
    """The first iteration after which the loss is no higher; their number if there is none."""
    for iteration, value in enumerate(curve):
        if value <= loss:
            return {"iterations": iteration, "reached": True}
    return {"iterations": len(curve) - 1, "reached": False}


def _plot(relative: np.ndarray, network: Median, worth: Median, path: Path) -> None:
    figure, axes = new_figure()
    low, middle, high = np.quantile(relative, [0.25, 0.5, 0.75], axis=0)
    iterations = np.arange(len(middle))
    (line,) = axes.plot(iterations, middle, label="Adam: median and quartiles")
    axes.fill_between(iterations, low, high, alpha=0.2, color=line.get_color())
    axes.axhline(network.value, color="C1", label="the network: median and interval")
    axes.axhspan(network.low, network.high, color="C1", alpha=0.2)
    axes.axvline(worth.value, color="C2", label=f"equivalent iterations: {worth}")
    axes.axvspan(worth.low, worth.high, color="C2", alpha=0.2)
    axes.set_yscale("log")
    axes.set_xlabel("iterations of Adam")
    axes.set_ylabel("loss over the unchanged content's")
    axes.set_title(f"{worth.pairs} pairs, 95 % bootstrap intervals")
    axes.legend()
    save_figure(figure, path)
