"""README's table of what was measured, and docs/benchmarks.png, from benchmarks/results/*.json.

python benchmarks/render.py

Every number between README's two markers comes from those files, and goes there by this script.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goals import GOALS

ROOT = Path(__file__).parents[1]
README, PLOT, RESULTS = ROOT / "README.md", "docs/benchmarks.png", ROOT / "benchmarks/results"
START, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->\n"
SCRIPTS = ("laplacian", "gram", "stylizer")

Sections = dict[str, Any]  # of one machine: benchmark -> what it put into the file


def load(folder: Path = RESULTS) -> list[Sections]:
    """The machines' results; other files in the folder are left alone."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [sections for sections in found if set(sections) & set(SCRIPTS)]


def name(machine: dict[str, Any]) -> str:
    if machine["gpu"]:
        return str(machine["gpu"])
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['fastfcs']['cpu'].upper()}"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def goals(machines: list[Sections]) -> str:
    """One row a goal and machine; a goal without a machine of its device awaits one."""
    rows = []
    for (script, device, key), goal in GOALS.items():
        measured = [
            sections[script]
            for sections in machines
            if script in sections and sections[script]["machine"]["device"] == device
        ]
        for section in measured:
            verdict = goal.verdict(section["goals"].get(key))
            rows.append([goal.what, goal.wanted, verdict, name(section["machine"])])
        if not measured:
            rows.append(
                [goal.what, goal.wanted, f"awaits a {'GPU' if device == 'cuda' else 'CPU'}", ""]
            )
    return table(["what", "wanted", "measured", "machine"], rows)


def pictures(machines: list[Sections]) -> str:
    """The whole Stylizer: one row a machine, kind and size."""
    rows = []
    for section in (sections["stylizer"] for sections in machines if "stylizer" in sections):
        memory = {
            (row["kind"], row["mp"]): f"{row['megabytes']:.0f}"
            for row in section["rows"]
            if row["operation"] == "memory"
        }
        for row in section["rows"]:
            if row["operation"] == "picture":
                kind, mp = row["kind"], row["mp"]
                how = kind if row["method"] == "fastfcs" else f"{kind}, {row['method']}"
                rows.append(
                    [
                        f"{mp:g} MP",
                        how,
                        f"{row['ms']:.3g}",
                        memory[kind, mp],
                        name(section["machine"]),
                    ]
                )
            elif row["operation"] == "set_style":
                rows.append(
                    [
                        f"{row['side']} px",
                        "a style's statistics",
                        f"{row['ms']:.3g}",
                        "",
                        name(section["machine"]),
                    ]
                )
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


def block(machines: list[Sections]) -> str:
    """What stands between README's markers."""
    parts = ["Written by `benchmarks/render.py` from `benchmarks/results/`.\n", goals(machines)]
    if machines:
        parts += [conditions(machines) + "\n", pictures(machines), f"![Benchmarks]({PLOT})\n"]
    return "\n" + "\n".join(parts) + "\n"


def with_block(readme: str, machines: list[Sections]) -> str:
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return before + START + block(machines) + END + after


def select(sections: Sections, script: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = sections.get(script, {}).get("rows", [])
    return [row for row in rows if wanted.items() <= row.items()]


def plot(machines: list[Sections]) -> None:
    """One row a machine: the filter step, the Gram correction, the whole Stylizer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(machines), 3, figsize=(13, 4 * len(machines)), squeeze=False, layout="constrained"
    )
    for (steps, grams, pictures), sections in zip(grid, machines, strict=True):
        machine = next(iter(sections.values()))["machine"]
        figure_title = f"filter step, 3 channels\n{name(machine)}"
        steps.set(title=figure_title, xlabel="megapixels", ylabel="ms", xscale="log", yscale="log")
        for method in ("fastfcs", "torch CSR", "CuPy CSR", "SciPy CSR", "PyGSP"):
            rows = select(sections, "laplacian", operation="step", channels=3, method=method)
            if rows:
                steps.plot([r["mp"] for r in rows], [r["ms"] for r in rows], "o-", label=method)
            if rows and method == "fastfcs":
                floor = [r["ms"] * r["floor"] for r in rows]
                steps.plot([r["mp"] for r in rows], floor, "k:", label="traffic floor")
        grams.set(
            title="Gram correction, float32, batch 1",
            xlabel="channels",
            xscale="log",
            ylabel="speed against torch",
        )
        grams.axhline(1, color="k", linestyle=":")
        sizes = sorted({r["pixels"] for r in select(sections, "gram", method="eager")})
        for method, style in (("eager", "o-"), ("compile", "s--")):
            for number, pixels in enumerate(sizes):
                rows = select(
                    sections,
                    "gram",
                    operation="correction",
                    type="float32",
                    batch=1,
                    pixels=pixels,
                    method=method,
                )
                grams.plot(
                    [r["channels"] for r in rows],
                    [r["ratio"] for r in rows],
                    style,
                    color=f"C{number}",
                    label=f"{method}, n = {pixels:,}",
                )
        pictures.set(
            title="whole Stylizer",
            xlabel="megapixels",
            ylabel="ms a picture",
            xscale="log",
            yscale="log",
        )
        for kind in ("artistic", "photoreal"):
            for method in ("fastfcs", "CUDA graph"):
                rows = select(sections, "stylizer", operation="picture", kind=kind, method=method)
                if rows:
                    label = kind if method == "fastfcs" else f"{kind}, {method}"
                    pictures.plot(
                        [r["mp"] for r in rows], [r["ms"] for r in rows], "o-", label=label
                    )
        for axes in (steps, grams, pictures):
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    figure.savefig(ROOT / PLOT, dpi=100, metadata={"Software": None})


def main() -> None:
    machines = load()
    README.write_text(with_block(README.read_text(), machines))
    if machines:
        plot(machines)


if __name__ == "__main__":
    main()
