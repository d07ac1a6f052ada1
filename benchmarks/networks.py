"""Where each network that ships stands between speed and quality.

python benchmarks/networks.py PAIRS PHOTOS STYLES OUT

PAIRS and PHOTOS with STYLES are folders as `fastfcs evaluate` takes them; OUT keeps what is done,
so that an interrupted run goes on. Writes benchmarks/results/networks.json: for each network, and
the first refined, its files in MB, seconds of one picture of 0.25 megapixels (the style set
before) both ways, refined only as a painting, medians over the pairs at 320 px, and the iterations
of Adam that it is worth on the last 50 photos at 192 px.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from measure import machine, seconds

from fastfcs import Stylizer
from fastfcs.evaluation.compare import compare
from fastfcs.evaluation.iterations import equivalent_iterations
from fastfcs.evaluation.methods import methods
from fastfcs.evaluation.pairs import find_pairs, pair_up
from fastfcs.evaluation.report import medians
from fastfcs.network import find_weights
from fastfcs.vgg import LOW_RANK

RESULTS = Path(__file__).parent / "results/networks.json"
NETWORKS = ("universal", True), ("universal", False), ("small", False), ("tiny", False)
SIDE, PAIRS, PHOTOS, LAST, STEPS = 500, 320, 192, 50, 60  # pixels, pixels, pixels, photos, Adam's


def speed(network: str, refine: bool, constraint: str | None) -> float:
    """Seconds a picture."""
    content, style = torch.rand(2, 3, SIDE, SIDE)
    stylizer = Stylizer(style, weights=network, refine=refine, constraint=constraint)
    with torch.inference_mode():
        return seconds(stylizer, [(content,)], "cpu")


def main() -> None:
    pairs, photos, styles, out = map(Path, sys.argv[1:])
    rows: list[dict[str, Any]] = []
    for network, refine in NETWORKS:
        names = ("artistic",) if refine else ("artistic", "photoreal")
        ways = methods(names, weights=network, refine=refine)
        folder = out / (f"{network} refined" if refine else network)
        found, _ = compare(find_pairs(pairs), ways, folder, size=PAIRS, say=print)
        worth = equivalent_iterations(
            pair_up(photos, [styles], LAST),
            out,
            weights=network,
            refine=refine,
            steps=STEPS,
            size=PHOTOS,
            facts={},
            say=print,
        )
        files = [find_weights(network), *([LOW_RANK] if refine else [])]
        row: dict[str, Any] = {
            "network": network,
            "refine": refine,
            "megabytes": sum(f.stat().st_size for f in files) / 1e6,
            "iterations": worth["equivalent iterations"],
        }
        for way, values in medians(found).items():
            row[way] = {key: value.value for key, value in values.items()}
            row[way]["picture"] = speed(network, refine, None if way == "artistic" else way)
        rows.append(row)
    RESULTS.write_text(json.dumps({"machine": machine("cpu"), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
