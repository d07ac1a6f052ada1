"""Speed and quality of every network that ships.

python benchmarks/networks.py PAIRS PHOTOS STYLES OUT

PAIRS, PHOTOS and STYLES are folders as for `fastfcs evaluate`. OUT caches results, so an
interrupted run continues. Writes benchmarks/results/networks.json: for every network, and for
the first one with refined paintings too, the size of its files in MB, the seconds per picture of
0.25 megapixels once the style is set, the medians over the pairs at 320 px (artistic and, always
refined, photoreal), and its equivalent iterations of Adam on the last 20 photos at 192 px.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from measure import machine, seconds

from fastfcs import Stylizer
from fastfcs.evaluation.compare import compare_methods
from fastfcs.evaluation.iterations import equivalent_iterations
from fastfcs.evaluation.methods import select_methods
from fastfcs.evaluation.pairs import find_pairs, pair_up
from fastfcs.evaluation.summary import medians
from fastfcs.files import write_text
from fastfcs.vgg import LOW_RANK
from fastfcs.weights import find_weights

RESULTS = Path(__file__).parent / "results/networks.json"
NETWORKS = ("universal", True), ("universal", None), ("small", None), ("tiny", None)
SIDE = 500  # of the picture that is timed, pixels
PAIRS_SIZE, PHOTOS_SIZE = 320, 192  # longer sides, pixels
LAST = 20  # photos
STEPS = 60  # iterations of Adam


def speed(network: str, refine: bool | None, constraint: str | None) -> float:
    """Measure the seconds per picture."""
    content, style = torch.rand(2, 3, SIDE, SIDE)
    stylizer = Stylizer(style, weights=network, refine=refine, constraint=constraint)
    with torch.inference_mode():
        return seconds(stylizer, [(content,)], "cpu")


def main() -> None:
    pairs, photos, styles, out = map(Path, sys.argv[1:])
    rows: list[dict[str, Any]] = []
    for network, refine in NETWORKS:
        names = ("artistic",) if refine else ("artistic", "photoreal")
        methods = select_methods(names, weights=network, refine=refine)
        folder = out / (f"{network} refined" if refine else network)
        results, _ = compare_methods(find_pairs(pairs), methods, folder, size=PAIRS_SIZE, log=print)
        equivalent = equivalent_iterations(
            pair_up(photos, [styles], LAST),
            out,
            weights=network,
            refine=bool(refine),
            steps=STEPS,
            size=PHOTOS_SIZE,
            metadata={},
            log=print,
        )
        files = [find_weights(network), *([LOW_RANK] if refine else [])]
        row: dict[str, Any] = {
            "network": network,
            "refine": bool(refine),
            "megabytes": sum(f.stat().st_size for f in files) / 1e6,
            "iterations": equivalent["equivalent iterations"],
        }
        for method, values in medians(results).items():
            row[method] = {key: value.value for key, value in values.items()}
            constraint = None if method == "artistic" else method
            row[method]["picture"] = speed(network, refine, constraint)
        rows.append(row)
    write_text(RESULTS, json.dumps({"machine": machine("cpu"), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
