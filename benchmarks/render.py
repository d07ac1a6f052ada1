"""Renders the documents' tables, and docs/benchmarks.png, from benchmarks/results/*.json.

python benchmarks/render.py

Every number between the markers in README.md and docs/*.md comes from those files. pairs.json is
the report.json of `fastfcs evaluate PAIRS`, with the medians of --refine and --no-refine merged
into it as "artistic, refined" and so on; iterations-*.json are the iterations.json of
--equivalent-iterations without their rows of single pairs; command-cpu.json is written by
command.py, networks.json by networks.py, large.json by large.py, known-edits.json by
known_edits.py, video.json by video.py, batch.json by batch.py, and one file per machine by
laplacian.py, gram.py and stylizer.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goals import GOALS
from tables import between, table

ROOT = Path(__file__).parents[1]
RESULTS, PLOT = ROOT / "benchmarks/results", ROOT / "docs/benchmarks.png"
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
    "ratio": "relative to the content's",
    "region_gram": "Gram distance by region",
    "ssim": "SSIM of gradients",
    "energy": "energy Tr(XᵀLX)/3n, 1e-5",
    "seconds": "seconds",
}
SUMMARY = ("gram", "ssim", "seconds")  # the measures in the README
FORMATS = {"energy": "{:.1f}", "seconds": "{:.1f}"}

# Method: the kind of solver, the source of photorealism, the input in addition to the pair.
APPROACHES = {
    "published": ("optimisation", "penalty Tr(XᵀLX)", "region masks"),
    "projected:0.3": ("optimisation", "projection", "none"),
    "photoreal": ("4 network updates and 6 refining ones", "projection", "none"),
    "photoreal, not refined": ("4 network updates", "projection", "none"),
    "regional": ("4 network updates and 6 refining ones", "projection", "region masks"),
    "artistic": ("4 network updates per scale", "none", "none"),
    "artistic, refined": ("the same and 10, 5, 1 ... refining ones", "none", "none"),
}

Sections = dict[str, Any]  # of one machine: benchmark -> its section of the file


def load(folder: Path = RESULTS) -> list[Sections]:
    """The results of each machine; other files in the folder are ignored."""
    contents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [sections for sections in contents if set(sections) & set(SCRIPTS)]


def machine_name(machine: dict[str, Any]) -> str:
    """The GPU, or the CPU with its cores and instruction set."""
    if machine["gpu"]:
        return str(machine["gpu"])
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['fastfcs']['cpu'].upper()}"


def goals(machines: list[Sections]) -> str:
    """One row per goal and machine on which it was measured."""
    rows = []
    for (script, device, key), goal in GOALS.items():
        for section in _sections(machines, script, device):
            verdict = goal.verdict(section["goals"].get(key))
            if not section["complete"]:
                verdict += ", run cut short"
            machine = machine_name(section["machine"])
            rows.append([_processor(device), goal.what, goal.target, verdict, machine])
    return table(["", "quantity", "goal", "measured", "machine"], rows)


def unmeasured(machines: list[Sections]) -> str:
    """The goals for which no machine has results, under a heading for each kind of device."""
    text = ""
    for device in ("cpu", "cuda"):
        rows = [
            [goal.what, goal.target]
            for (script, where, _), goal in GOALS.items()
            if where == device and not _sections(machines, script, device)
        ]
        if rows:
            heading = f"## Unmeasured: awaiting a {_processor(device)}\n\n"
            text += heading + table(["quantity", "goal"], rows) + "\n"
    return text


def _sections(machines: list[Sections], script: str, device: str) -> list[dict[str, Any]]:
    """A benchmark's sections from every machine that ran it on this kind of device."""
    sections = [machine[script] for machine in machines if script in machine]
    return [section for section in sections if section["machine"]["device"] == device]


def _processor(device: str) -> str:
    return "GPU" if device == "cuda" else "CPU"


def stylizer(machines: list[Sections]) -> str:
    """The whole Stylizer: one row per machine, kind and size."""
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
            machine = machine_name(section["machine"])
            rows.append([f"{mp:.2g} MP", how, ms, peak, machine])
    return table(["size", "Stylizer", "ms", "peak MB", "machine"], rows)


def conditions(machines: list[Sections]) -> str:
    """One sentence per machine: the versions, and the rates that bound the kernels."""
    lines = []
    for sections in machines:
        section = next(sections[script] for script in SCRIPTS if script in sections)
        machine = section["machine"]
        line = f"{machine_name(machine)}: torch {machine['torch']}, {machine['date']}"
        line += f", copies {section['copy_gb_s']:.0f} GB/s, float32 matrix products "
        line += f"{section['multiply_adds_g_s']['float32'] / 1e3:.2g} T multiply-adds/s."
        lines.append(line)
    return " ".join(lines)


def method_name(method: str) -> str:
    """A method of `fastfcs evaluate` in words, for example "projected:0.3"."""
    name, _, refined = method.partition(", ")
    family, _, cutoff = name.partition(":")
    words = METHODS.get(family, family) + (f", cutoff {cutoff}" if cutoff else "")
    return words + (f", {refined}" if refined else "")


def measured(medians: dict[str, Any], measure: str) -> str:
    """A median as a table's cell; empty where it was not measured."""
    if measure not in medians:
        return ""
    value = medians[measure]["value"] * (1e5 if measure == "energy" else 1)
    return FORMATS.get(measure, "{:.3f}").format(value)


def pairs(report: dict[str, Any]) -> str:
    """One row of medians per method."""
    rows = [
        [method_name(method), *(measured(medians, measure) for measure in MEASURES)]
        for method, medians in report["medians"].items()
    ]
    return table([f"{report['pairs']} pairs", *MEASURES.values()], rows)


def summary(report: dict[str, Any]) -> str:
    """The medians that matter most, of the content and the methods in `APPROACHES`."""
    rows = [
        [method_name(method), *(measured(report["medians"][method], m) for m in SUMMARY)]
        for method in ("content", *APPROACHES)
    ]
    return table([f"{report['pairs']} pairs", *(MEASURES[measure] for measure in SUMMARY)], rows)


def approaches(report: dict[str, Any]) -> str:
    """How the methods work, with the medians that matter most."""
    rows = [
        [
            method_name(method),
            *words,
            *(measured(report["medians"][method], measure) for measure in SUMMARY),
        ]
        for method, words in APPROACHES.items()
    ]
    head = ["", "solver", "photorealism", "additional input"]
    return table([*head, *(MEASURES[measure] for measure in SUMMARY)], rows)


def speed(report: dict[str, Any], machines: list[Sections]) -> str:
    """Seconds for 0.25 MP on each CPU that measured them, in one sentence."""
    row = next(r for r in report["rows"] if r["network"] == "universal" and "photoreal" in r)
    times = {_cores(report["machine"]): (row["artistic"]["picture"], row["photoreal"]["picture"])}
    for section in _sections(machines, "stylizer", "cpu"):
        rows = select({"stylizer": section}, "stylizer", operation="picture", method="fastfcs")
        quarter = {r["kind"]: r["ms"] / 1e3 for r in rows if round(r["mp"], 2) == 0.25}
        times[_cores(section["machine"])] = quarter["artistic"], quarter["photoreal"]
    clauses = [
        f"{artistic:.1f} s (artistic) and {photoreal:.1f} s (photoreal) on {processor}"
        for processor, (artistic, photoreal) in times.items()
    ]
    return f"A picture of 0.25 megapixels takes {', '.join(clauses)}.\n"


def _cores(machine: dict[str, Any]) -> str:
    return f"{machine['cores']} cores of an {machine['cpu'].replace('(R)', '')}"


def iterations(reports: dict[str, dict[str, Any]]) -> str:
    """One row per file: the equivalent iterations of Adam, and the losses."""
    rows = []
    for what, report in reports.items():
        equivalent, losses = (
            report["equivalent iterations"],
            report["loss over the unchanged content's, medians"],
        )
        after = dict(zip(report["iterations per scale"], losses["curve"], strict=True))
        missed = f", {report['not reached']} not reached" if report["not reached"] else ""
        rows.append(
            [
                what.replace("-", " ").replace(" refined", ", refined"),
                f"{interval(equivalent)}{missed}",
                f"{losses['network']['value']:.3f}",
                ", ".join(f"{after[count]:.3f}" for count in (16, 32)),
                f"{equivalent['pairs']}, {size_in_words(report['size'])}",
            ]
        )
    head = ["styles", "equivalent iterations", "loss relative to the content's"]
    return table([*head, "the same after 16, 32 iterations of Adam", "pairs"], rows)


def interval(median: dict[str, Any]) -> str:
    """A median with its confidence interval."""
    return f"{median['value']:.3g} ({median['low']:.3g} to {median['high']:.3g})"


def size_in_words(size: int | str) -> str:
    """The size to which pictures were reduced."""
    return f"longer side {size} px" if isinstance(size, int) else "full size"


def networks(report: dict[str, Any]) -> str:
    """One row per network that ships."""
    rows = []
    for row in report["rows"]:
        artistic, photoreal = row["artistic"], row.get("photoreal")  # not of a refined network
        rows.append(
            [
                f"`{row['network']}`" + (", refined" if row.get("refine") else ""),
                f"{row['megabytes']:.1f}",
                ", ".join(f"{kind['picture']:.2f}" for kind in (artistic, photoreal) if kind),
                interval(row["iterations"]),
                f"{artistic['gram']:.3f}",
                f"{photoreal['gram']:.3f}, {photoreal['ssim']:.3f}" if photoreal else "",
            ]
        )
    head = ["weights", "MB", "seconds at 0.25 MP: artistic, photoreal", "equivalent iterations"]
    return table([*head, "artistic: Gram distance", "photoreal: Gram distance, SSIM"], rows)


def command(report: dict[str, Any]) -> str:
    """The whole command: one row per size and kind."""
    rows = [
        [f"{run['size']} px, {run['kind']}", f"{run['seconds']:.1f}", str(run["peak_mb"])]
        for run in report["runs"]
    ]
    return table(["", "seconds", "peak MB"], rows)


def large(report: dict[str, Any]) -> str:
    """Large photographs: one row per size, and one per kernel."""
    kinds = {
        "photoreal": "`stylize --photoreal`",
        "artistic": "`stylize`",
        "look": "`apply`",
        "color-matcher": "color-matcher, mkl, without files",
    }
    rows = [
        [
            f"{row['megapixels']} MP",
            words,
            f"{row[kind]['seconds']:.1f}",
            str(row[kind].get("peak_mb", "")),
            str(row["decoded_mb"]),
        ]
        for row in report["rows"]
        for kind, words in kinds.items()
        if kind in row
    ]
    head = ["photograph", "", "seconds", "peak MB", "of which input and output, decoded"]
    kernels = [
        [row["what"], f"{row['ms']:.1f}", f"{row['floor']:.2f}" if "floor" in row else ""]
        for row in report["kernels"]
    ]
    text = f"{machine_name(report['machine'])}:\n\n{table(head, rows)}\n"
    return text + table(["at 24 MP", "ms", "a copy's time over it"], kernels)


def known_edits(report: dict[str, Any]) -> str:
    """One row per method, one column per seed."""
    methods = list(next(iter(report.values())))
    rows = [
        [method, *(f"{seed[method][0]:.1f}, {seed[method][1]:.1f}" for seed in report.values())]
        for method in methods
    ]
    return table(["PSNR in dB, CIEDE2000", *(f"seed {seed}" for seed in report)], rows)


def video(report: dict[str, Any]) -> str:
    """Warping errors of photographs and of paintings, and the speed of the command."""
    photographs = [
        [clip, f"{row['source']:.4f}"]
        + [f"{row[key]:.2f}" for key in ("scene", "scene, largest", "flow", "frame by frame")]
        for clip, row in report["photographs"].items()
    ]
    paintings = [
        [clip, f"{row['frame by frame']:.3f}, {row['frame by frame, ssim']:.2f}"]
        + [
            f"{row[kind]:.2f}, {row[f'{kind}, gram']:.2f}, {row[f'{kind}, ssim']:.2f}"
            for kind in ("iterates", "result")
        ]
        for clip, row in report["paintings"].items()
    ]
    speed = [
        [name, f"{row['frames per second']:.1f}", f"{row['peak_mb']:.0f}"]
        for name, row in report["speed"].items()
    ]
    held = ["`--hold scene`, median", "largest", "`--hold flow`", "frame by frame"]
    alone = "frame by frame: error, SSIM"
    pulled = [f"{kind}: error, Gram distance, SSIM" for kind in ("held", "held to the result")]
    return "\n".join(
        [
            table(["photographs, error over the source's", "source", *held], photographs),
            table(["paintings", alone, *pulled], paintings),
            f"{machine_name(report['machine'])}, the whole command, from file to file:\n",
            table(["", "frames per second", "peak MB"], speed),
        ]
    )


def batch(report: dict[str, Any]) -> str:
    """Pictures per second and memory of batches, against one picture after another."""
    rows = [
        [
            f"{row['pictures']} {part}",
            f"`{row['command'].split(',')[0]}`{row['command'].removeprefix('stylize')[5:]}",
            str(row["cores"]),
            f"{row['seconds']:.0f}",
            f"{row['rate']:.2f}",
            f"{row['megabytes'][0]}, {row['megabytes'][2]}, {row['megabytes'][4]}",
        ]
        for part, runs in report["parts"].items()
        for row in runs
    ]
    head = [
        "",
        "command",
        "cores",
        "seconds",
        "pictures per second",
        "peak MB in the first, third and last fifth of the time",
    ]
    where = f"{machine_name(report['machine'])}, whole commands, from JPEG to JPEG.\n"
    return f"{where}\n{table(head, rows)}"


def benchmarks(machines: list[Sections]) -> str:
    """The goals that were measured, the Stylizer's times, and the goals that were not measured."""
    text = goals(machines)
    if machines:
        text += f"\n{conditions(machines)}\n\n{stylizer(machines)}"
        text += f"\n![Benchmarks]({PLOT.name})\n"
    return f"{text}\n{unmeasured(machines)}".rstrip() + "\n"


def documents() -> dict[Path, str]:
    """Every document that has rendered tables: its path, and its text with the present results."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    reports = {
        stem.removeprefix("iterations-"): report
        for stem, report in results.items()
        if stem.startswith("iterations-")
    }
    machines = load()
    overview = summary(results["pairs"]) + "\n" + speed(results["networks"], machines)
    tables = {
        "README.md": {"results": overview},
        "docs/results.md": {
            "approaches": approaches(results["pairs"]),
            "pairs": pairs(results["pairs"]),
            "iterations": iterations(reports),
            "networks": networks(results["networks"]),
            "command": command(results["command-cpu"]),
        },
        "docs/benchmarks.md": {
            "benchmarks": benchmarks(machines),
            "large": large(results["large"]),
        },
        "docs/video.md": {"video": video(results["video"])},
        "docs/cluster.md": {"batch": batch(results["batch"])},
        "docs/evaluation.md": {"known edits": known_edits(results["known-edits"])},
    }
    texts = {}
    for name, blocks in tables.items():
        text = (ROOT / name).read_text()
        for marker, block in blocks.items():
            text = between(text, marker, block)
        texts[ROOT / name] = text
    return texts


def select(sections: Sections, script: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a benchmark that have these values."""
    rows = sections.get(script, {}).get("rows", [])
    return [row for row in rows if values.items() <= row.items()]


def plot(machines: list[Sections]) -> None:
    """Draw one row per machine: the filter step, the Gram correction, the whole Stylizer."""
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
        machine = machine_name(next(iter(sections.values()))["machine"])
        steps.set_title(f"{machine}\nfilter step, 3 channels, ms over megapixels")
        grams.set_title("Gram correction, float32, batch 1\nspeed-up over torch, over channels")
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
    figure.savefig(PLOT, dpi=100, metadata={"Software": None})


def main() -> None:
    for path, text in documents().items():
        path.write_text(text)
    machines = load()
    if machines:
        plot(machines)


if __name__ == "__main__":
    main()
