"""README's tables of what was measured, and docs/benchmarks.png, from benchmarks/results/*.json.

python benchmarks/render.py

Every number between README's markers comes from those files, and goes there by this script.
pairs.json is what `fastfcs evaluate PAIRS` wrote as report.json, that of --refine merged into it
as "artistic, refined", and iterations-*.json what it did with --equivalent-iterations, the rows of
single pairs left out; command-cpu.json is of command.py,
networks.json of networks.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goals import GOALS
from tables import between, table

ROOT = Path(__file__).parents[1]
README, PLOT, RESULTS = ROOT / "README.md", "docs/benchmarks.png", ROOT / "benchmarks/results"
SCRIPTS = ("laplacian", "gram", "stylizer")
METHODS = {
    "content": "content, unchanged",
    "published": "Luan et al., published, with region masks",
    "artistic": "fastfcs, artistic",
    "photoreal": "fastfcs, photoreal",
    "regional": "fastfcs, photoreal, with region masks",
    "projected": "projected gradient (`fastfcs optimize`)",
}
MEASURES = {
    "gram": "Gram distance to the style",
    "ratio": "of the unchanged content's",
    "region_gram": "region by region",
    "ssim": "SSIM of gradients",
    "energy": "energy Tr(XᵀLX)/3n, 1e-5",
}

Sections = dict[str, Any]  # of one machine: benchmark -> what it put into the file


def load(folder: Path = RESULTS) -> list[Sections]:
    """The machines' results; other files in the folder are left alone."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [sections for sections in found if set(sections) & set(SCRIPTS)]


def name(machine: dict[str, Any]) -> str:
    if machine["gpu"]:
        return str(machine["gpu"])
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['fastfcs']['cpu'].upper()}"


def goals(machines: list[Sections]) -> str:
    """One row a goal and machine; a goal without a machine of its device awaits one."""
    rows = []
    for (script, device, key), goal in GOALS.items():
        where = "GPU" if device == "cuda" else "CPU"
        measured = [
            sections[script]
            for sections in machines
            if script in sections and sections[script]["machine"]["device"] == device
        ]
        for section in measured:
            verdict = goal.verdict(section["goals"].get(key))
            if not section["complete"]:
                verdict += ", run cut short"
            rows.append([where, goal.what, goal.wanted, verdict, name(section["machine"])])
        if not measured:
            rows.append([where, goal.what, goal.wanted, f"awaits a {where}", ""])
    return table(["", "what", "wanted", "measured", "machine"], rows)


def pictures(machines: list[Sections]) -> str:
    """The whole Stylizer: one row a machine, kind and size."""
    rows = []
    for section in (sections["stylizer"] for sections in machines if "stylizer" in sections):
        memory = {
            (row["kind"], row["mp"], row["method"]): f"{row['megabytes']:.0f}"
            for row in section["rows"]
            if row["operation"] == "memory"
        }
        for row in section["rows"]:
            if row["operation"] not in ("picture", "set_style"):
                continue
            kind, mp, method = row.get("kind", "statistics of a style"), row["mp"], row["method"]
            how = kind if method == "fastfcs" else f"{kind}, {method}"
            peak = memory.get((kind, mp, method), "")
            ms = f"{row['ms']:.0f}" if row["ms"] >= 100 else f"{row['ms']:.3g}"
            rows.append([f"{mp:.2g} MP", how, ms, peak, name(section["machine"])])
    return table(["size", "Stylizer", "ms", "peak MB", "machine"], rows)


def conditions(machines: list[Sections]) -> str:
    """What every machine ran, in a sentence each."""
    lines = []
    for sections in machines:
        section = next(sections[script] for script in SCRIPTS if script in sections)
        machine = section["machine"]
        line = f"{name(machine)}: torch {machine['torch']}, {machine['date']}"
        line += f", copies {section['copy_gb_s']:.0f} GB/s, float32 matrix products "
        line += f"{section['multiply_adds_g_s']['float32'] / 1e3:.2g} T multiply-adds/s."
        lines.append(line)
    return " ".join(lines)


def pairs(report: dict[str, Any]) -> str:
    """One row a method, medians."""

    def cell(medians: dict[str, Any], key: str) -> str:
        if key not in medians:
            return ""
        value = medians[key]["value"]
        return f"{1e5 * value:.1f}" if key == "energy" else f"{value:.3f}"

    rows = []
    for method, medians in report["medians"].items():
        way, _, refined = method.partition(", ")
        family, _, cutoff = way.partition(":")
        what = METHODS.get(family, family) + (f", cut-off {cutoff}" if cutoff else "")
        what += f", {refined}" if refined else ""
        rows.append([what, *(cell(medians, key) for key in MEASURES)])
    return table([f"{report['pairs']} pairs", *MEASURES.values()], rows)


def iterations(reports: dict[str, dict[str, Any]]) -> str:
    """One row a file: how many iterations of Adam the network is worth."""
    rows = []
    for what, report in reports.items():
        worth, losses = (
            report["equivalent iterations"],
            report["loss over the unchanged content's, medians"],
        )
        after = [f"{losses['curve'][k]:.3f}" for k in (25, 50) if k <= report["steps"]]
        missed = f", {report['not reached']} not reached" if report["not reached"] else ""
        rows.append(
            [
                what.replace("-", " ").replace(" refined", ", refined"),
                f"{worth['value']:g} ({worth['low']:g} to {worth['high']:g}){missed}",
                f"{losses['network']['value']:.3f}",
                ", ".join(after),
                f"{worth['pairs']}, {of_size(report['size'])}",
            ]
        )
    head = ["", "iterations", "loss over the content's", "Adam's after 25, 50", "pairs"]
    return table(head, rows)


def of_size(size: int | str) -> str:
    return f"longer side {size}" if isinstance(size, int) else "as they are"


def networks(report: dict[str, Any]) -> str:
    """One row a network that ships."""
    rows = []
    for row in report["rows"]:
        artistic, worth = row["artistic"], row["iterations"]
        photoreal = row.get("photoreal")  # not of a refined network
        rows.append(
            [
                f"`{row['network']}`" + (", refined" if row.get("refine") else ""),
                f"{row['megabytes']:.1f}",
                ", ".join(f"{way['picture']:.2f}" for way in (artistic, photoreal) if way),
                f"{worth['value']:g} ({worth['low']:g} to {worth['high']:g})",
                f"{artistic['gram']:.3f}",
                f"{photoreal['gram']:.3f}, {photoreal['ssim']:.3f}" if photoreal else "",
            ]
        )
    head = ["weights", "MB", "seconds, 0.25 MP: artistic, photoreal", "iterations, never seen"]
    return table([*head, "artistic Gram distance", "photoreal Gram distance, SSIM"], rows)


def command(report: dict[str, Any]) -> str:
    """The whole command: one row a size and kind."""
    rows = [
        [f"{run['size']} px, {run['kind']}", f"{run['seconds']:.1f}", str(run["peak_mb"])]
        for run in report["runs"]
    ]
    return table(["", "seconds", "peak MB"], rows)


def block(machines: list[Sections]) -> str:
    """What the machines measured."""
    parts = ["Written by `benchmarks/render.py` from `benchmarks/results/`.\n", goals(machines)]
    if machines:
        parts += [conditions(machines) + "\n", pictures(machines), f"![Benchmarks]({PLOT})\n"]
    return "\n".join(parts)


def with_blocks(readme: str) -> str:
    """README with every block replaced."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    worth = {k.removeprefix("iterations-"): r for k, r in read.items() if k[:10] == "iterations"}
    readme = between(readme, "pairs", pairs(read["pairs"]))
    readme = between(readme, "iterations", iterations(worth))
    readme = between(readme, "networks", networks(read["networks"]))
    readme = between(readme, "command", command(read["command-cpu"]))
    return between(readme, "benchmarks", block(load()))


def select(sections: Sections, script: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = sections.get(script, {}).get("rows", [])
    return [row for row in rows if wanted.items() <= row.items()]


def plot(machines: list[Sections]) -> None:
    """One row a machine: the filter step, the Gram correction, the whole Stylizer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(machines), 3, figsize=(14, 4.5 * len(machines)), squeeze=False, layout="constrained"
    )

    ticks: dict[Any, list[float]] = {}

    def line(
        axes: Any, rows: list[dict[str, Any]], x: str, y: str, label: str, **look: Any
    ) -> None:
        if rows:
            look = {"marker": "o", **look}
            axes.plot([row[x] for row in rows], [row[y] for row in rows], label=label, **look)
            ticks[axes] = sorted({*ticks.get(axes, ()), *(row[x] for row in rows)})
            axes.set_xticks(ticks[axes], [f"{tick:g}" for tick in ticks[axes]])
            axes.set_xticks([], minor=True)

    for (steps, grams, whole), sections in zip(grid, machines, strict=True):
        machine = name(next(iter(sections.values()))["machine"])
        steps.set_title(f"{machine}\nfilter step, 3 channels, ms over megapixels")
        grams.set_title("Gram correction, float32, batch 1\ntimes as fast as torch, over channels")
        whole.set_title("whole Stylizer\nms over megapixels")
        for axes in (steps, grams, whole):
            axes.set_xscale("log")
            axes.grid(alpha=0.3)
        for method in ("fastfcs", "torch CSR", "CuPy CSR", "SciPy CSR", "PyGSP"):
            rows = select(sections, "laplacian", operation="step", channels=3, method=method)
            line(steps, rows, "mp", "ms", method)
            if method == "fastfcs":
                floor = [{**row, "ms": row["ms"] * row["floor"]} for row in rows]
                line(steps, floor, "mp", "ms", "traffic floor", color="k", linestyle=":", marker="")
        steps.set_yscale("log")
        grams.axhline(1, color="k", linestyle=":")
        sizes = sorted({row["pixels"] for row in select(sections, "gram", method="eager")})
        for method, style in (("eager", "-"), ("compile", "--"), ("triton", ":")):
            for number, pixels in enumerate(sizes):
                rows = select(
                    sections, "gram", operation="correction", type="float32", batch=1,
                    pixels=pixels, method=method,
                )  # fmt: skip
                label = f"{method}, n = {pixels:,}"
                line(grams, rows, "channels", "ratio", label, linestyle=style, color=f"C{number}")
        for kind in ("artistic", "photoreal"):
            for method, style in (("fastfcs", "-"), ("CUDA graph", "--")):
                rows = select(sections, "stylizer", operation="picture", kind=kind, method=method)
                line(whole, rows, "mp", "ms", f"{kind}, {method}", linestyle=style)
        for axes in (steps, grams, whole):
            axes.legend(fontsize="small")
        whole.set_ylim(bottom=0)
    figure.savefig(ROOT / PLOT, dpi=100, metadata={"Software": None})


def main() -> None:
    machines = load()
    README.write_text(with_blocks(README.read_text()))
    if machines:
        plot(machines)


if __name__ == "__main__":
    main()
