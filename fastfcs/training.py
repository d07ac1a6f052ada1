"""Training of the universal network on the artistic loss, and tuning of H^s for one style.

Each image pair costs most in VGG. So a pool of recent crops keeps its targets (conv4_2 features of
contents, Gram matrices of both kinds); a step draws its content/style pairs from the pool and
replaces a quarter of a batch: each crop serves four times, in other company each time.
"""

from __future__ import annotations

import json
import random
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from .images import SUFFIXES
from .losses import relative_content_loss, relative_style_loss
from .network import MIN_SIDE, Statistics, UnrolledSolver, load_solver, save_solver, save_tensors
from .ops import gram
from .vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19, load_vgg19

_POOL = 8  # batches of crops kept
_WARM_UP, _COOL_DOWN = 30, 0.4  # steps; the last fraction of the steps, with falling rate
_CLIP = 20.0  # norm of the gradients, which only the wildest pairs exceed


class Diverged(RuntimeError):
    """The loss or a gradient is no longer finite; the last checkpoint is untouched."""


@dataclass
class Losses:
    """Means over a batch: content ||F - C||^2 / ||C||^2, style as in :func:`batch_loss`."""

    content: float
    style: float


@dataclass
class _Crop:
    image: Tensor  # (3, size, size)
    features: Tensor  # conv4_2 (512, size / 8, size / 8)
    grams: dict[str, Tensor]  # S_l^T S_l / n'_l of each style layer


def list_images(folder: str | Path) -> list[Path]:
    """The pictures below a folder, sorted by path, as absolute paths.

    Raises:
        ValueError: not a folder, or no picture in it.
    """
    folder = Path(folder).resolve()
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"content and style must be folders with pictures in them, not {folder}")
    return found


def random_crop(path: Path, size: int, rng: random.Random) -> Tensor:
    """A random square of a picture, (3, size, size) in [0, 1]; scale and mirroring vary too."""
    image = _read(path)
    short = min(image.size)
    side = int(short * (min(1, size / short) ** rng.random()))  # log-uniform, size to the whole
    left, top = rng.randint(0, image.width - side), rng.randint(0, image.height - side)
    image = image.resize(
        (size, size),
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
        reducing_gap=3,
    )
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return _to_tensor(image)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture") from error


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1) / 255


def batch_loss(
    vgg: VGG19,
    output: Tensor,
    content: Sequence[_Crop],
    style: Sequence[_Crop],
    style_weight: float,
) -> tuple[Tensor, Losses]:
    """||F - C||^2 / ||C||^2 + style_weight * mean over l of ||G - S||^2 / (||S||^2 + ||G_C||^2).

    Gatys' two losses made relative (`fastfcs.losses`), G_C the content's own Gram matrix. Means
    over the batch (B, 3, H, W).
    """
    found = vgg(output)
    features = torch.stack([crop.features for crop in content])
    content_term = relative_content_loss(found[CONTENT_LAYER], features)
    terms = []
    for layer in STYLE_LAYERS:
        wanted = torch.stack([crop.grams[layer] for crop in style])
        before = torch.stack([crop.grams[layer] for crop in content])
        terms.append(relative_style_loss(gram(found[layer]), wanted, before).mean())
    style_term = torch.stack(terms).mean()
    total = content_term + style_weight * style_term
    return total, Losses(content_term.item(), style_term.item())


class _Pool:
    """Recent crops of one list of folders; crop number i depends on the seed and i alone."""

    def __init__(
        self, folders: Sequence[Sequence[Path]], vgg: VGG19, size: int, batch: int, seed: str
    ) -> None:
        self._folders, self._vgg, self._size, self._seed = folders, vgg, size, seed
        self._batch, self._fresh = batch, max(1, batch // 4)
        self._crops: deque[_Crop] = deque(maxlen=_POOL * batch)
        self._drawn = 0

    def sample(self, step: int) -> list[_Crop]:
        """The batch of a step: the pool then holds the same crops, resumed or not."""
        self._drawn = max(self._drawn, step * self._fresh)
        while self._drawn < step * self._fresh + _POOL * self._batch:
            self._draw(min(4, step * self._fresh + _POOL * self._batch - self._drawn))
        return random.Random(f"{self._seed}/step/{step}").sample(list(self._crops), self._batch)

    def _draw(self, count: int) -> None:
        rngs = [random.Random(f"{self._seed}/{self._drawn + k}") for k in range(count)]
        paths = [rng.choice(rng.choice(self._folders)) for rng in rngs]
        images = torch.stack(
            [random_crop(p, self._size, r) for p, r in zip(paths, rngs, strict=True)]
        )
        self._crops += _targets(self._vgg, images.to(self._vgg.mean.device))
        self._drawn += count


@torch.no_grad()
def _targets(vgg: VGG19, images: Tensor) -> list[_Crop]:
    found = vgg(images)
    grams = {layer: gram(found[layer]) for layer in STYLE_LAYERS}
    return [
        _Crop(image, found[CONTENT_LAYER][k], {layer: g[k] for layer, g in grams.items()})
        for k, image in enumerate(images)
    ]


def train(
    content: str | Path,
    style: Sequence[str | Path],
    out: str | Path,
    *,
    steps: int = 3000,
    batch: int = 4,
    size: int = 96,
    style_weight: float = 20.0,
    lr: float = 2e-3,
    seed: int = 0,
    holdout: int = 50,
    preview_every: int = 500,
    device: str = "cpu",
    vgg: str | Path | None = None,
    licence: str = "MIT",
) -> UnrolledSolver:
    """Train an :class:`UnrolledSolver` for any style; write its weights to ``out``.

    Every batch pairs contents with as many styles, each its own; H^s comes from the same forward
    maps. SOAP (Vyas et al., arXiv:2409.11321) with a short warm-up and a linear cool-down: the loss
    is ill-conditioned, the mean colour outweighing every texture. (On the same batches the style
    loss, relative to the unchanged contents', was 0.53 after 80 steps, Adam's 0.62 after 300.)
    Beside ``out`` stand a checkpoint, from which a run that was cut off goes on exactly where it
    was, and a preview sheet of held-out pictures. Both are replaced, never half-written.

    Args:
        content: folder of photos.
        style: folders of styles, each equally likely; may name ``content`` again.
        size: side of the square crops, pixels, a multiple of 8.
        style_weight: weight of the style term of :func:`batch_loss`.
        holdout: the last so many pictures of ``content`` are never trained on, as style neither.
        vgg: see :func:`fastfcs.vgg.load_vgg19`.

    Raises:
        ValueError: an argument out of range, or a folder without pictures.
        Diverged: the loss is no longer finite.
    """
    if size % 8 or size < MIN_SIDE:
        raise ValueError(f"size must be a multiple of 8 and at least {MIN_SIDE}, not {size}")
    if min(steps, batch) < 1:
        raise ValueError(f"steps and batch must be at least 1, not {steps} and {batch}")
    out = Path(out)
    photos = list_images(content)
    held = photos[len(photos) - holdout :] if holdout else []
    folders = [[p for p in list_images(f) if p not in held] for f in style]
    photos = [p for p in photos if p not in held]
    if not photos or not all(folders):
        raise ValueError(f"holdout of {holdout} leaves no picture to train on")

    words = ["fastfcs", "train", "--content", Path(content).name]  # names only: paths are private
    for folder in style:
        words += ["--style", Path(folder).name]
    facts = {
        "trained by": shlex.join(words),
        "data": json.dumps({"content": len(photos), "style": [len(f) for f in folders]}),
        **{"batch": str(batch), "size": str(size), "seed": str(seed)},
        "style weight": str(style_weight),
    }

    torch.manual_seed(seed)
    solver = UnrolledSolver().to(device)
    features = load_vgg19(vgg).to(device)
    contents = _Pool([photos], features, size, batch, f"{seed}/content")
    styles = _Pool(folders, features, size, batch, f"{seed}/style")

    first = contents.sample(0), styles.sample(0)
    for update in solver.updates:
        update.initialise(*(torch.stack([crop.image for crop in crops]) for crops in first))

    def loss(step: int) -> tuple[Tensor, Losses]:
        chosen, wanted = contents.sample(step), styles.sample(step)
        targets = solver.statistics(torch.stack([crop.image for crop in wanted]))
        output = solver(torch.stack([crop.image for crop in chosen]), targets)
        return batch_loss(features, output, chosen, wanted, style_weight)

    def preview() -> None:
        shown = (held or photos)[:: max(1, len(held) // 3)][:3]
        rows = [_load(p, 2 * size).to(device) for p in shown]
        columns = [_load(f[len(f) // 3 * k], 2 * size).to(device) for f in folders for k in (0, 1)]
        _write_sheet(solver, rows, columns, out.with_suffix(".preview.png"))

    parameters = dict(solver.named_parameters())
    done = _descend(
        parameters,
        _soap(parameters.values(), lr),
        loss,
        out.with_suffix(".checkpoint.safetensors"),
        facts=facts,
        steps=steps,
        lr=lr,
        every=preview_every,
        on_checkpoint=preview,
    )
    save_solver(solver, out, {**facts, "steps": str(done), "lr": str(lr), "licence": licence})
    return solver


def tune(
    style: str | Path,
    content: str | Path,
    out: str | Path,
    *,
    weights: str | Path = "universal",
    steps: int = 300,
    batch: int = 4,
    size: int = 128,
    style_weight: float = 10.0,
    lr: float = 1e-2,
    seed: int = 0,
    device: str = "cpu",
    vgg: str | Path | None = None,
) -> Statistics:
    """Optimise only H^s for one style, every filter frozen; write it to ``out`` (safetensors).

    Starts from the statistics of the style picture itself. Arguments and errors as :func:`train`;
    ``lr`` is relative to the size of each Gram matrix.
    """
    solver = load_solver(weights).to(device).requires_grad_(False)
    features = load_vgg19(vgg).to(device)
    picture = _load(Path(style), 512).to(device)
    contents = _Pool([list_images(content)], features, size, batch, f"{seed}/content")
    wanted = _targets(features, picture) * batch
    with torch.no_grad():
        start = solver.statistics(picture)
    scales = {key: h.abs().mean() for key, h in start.items()}
    offsets = {key: nn.Parameter(torch.zeros_like(h)) for key, h in start.items()}

    def tuned() -> Statistics:
        # H^s stays symmetric, as every Gram matrix is.
        return {k: start[k] + scales[k] * (p + p.transpose(1, 2)) / 2 for k, p in offsets.items()}

    def loss(step: int) -> tuple[Tensor, Losses]:
        chosen = contents.sample(step)
        output = solver(torch.stack([crop.image for crop in chosen]), tuned())
        return batch_loss(features, output, chosen, wanted, style_weight)

    out = Path(out)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    facts = {"style": Path(style).name, "size": str(size), "style weight": str(style_weight)}
    adam = torch.optim.Adam(offsets.values(), lr=lr, betas=(0.9, 0.99))
    _descend(offsets, adam, loss, checkpoint, facts=facts, steps=steps, lr=lr, every=50)
    result = {key: h.detach() for key, h in tuned().items()}
    save_tensors(result, out, {"format": "fastfcs preset", **facts})
    checkpoint.unlink()
    return result


def _soap(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP

    return SOAP(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=10)


def _descend(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], tuple[Tensor, Losses]],
    checkpoint: Path,
    *,
    facts: dict[str, str],
    steps: int,
    lr: float,
    every: int,
    on_checkpoint: Callable[[], None] = lambda: None,
) -> int:
    """Minimise ``loss(step)`` from the checkpoint, if there is one of the same facts."""
    start = _resume(parameters, optimizer, checkpoint, facts) if checkpoint.is_file() else 0
    for step, report in _progress(range(start, steps)):
        rate = min((step + 1) / _WARM_UP, (steps - step) / (_COOL_DOWN * steps), 1)
        optimizer.param_groups[0]["lr"] = lr * rate
        total, losses = loss(step)
        optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(parameters.values(), _CLIP)
        if not torch.isfinite(total + norm):
            raise Diverged(
                f"step {step}: the loss is {total.item()} and the gradient's norm {norm.item()}; "
                f"go on from the last good state, {checkpoint}, with a smaller lr"
            )
        optimizer.step()
        report(losses)
        if (step + 1) % every == 0 or step + 1 == steps:
            _save_checkpoint(parameters, optimizer, checkpoint, {**facts, "step": str(step + 1)})
            on_checkpoint()
    return max(start, steps)


def _save_checkpoint(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    path: Path,
    facts: dict[str, str],
) -> None:
    tensors = {f"parameter/{name}": p.detach() for name, p in parameters.items()}
    state = json.dumps(_aside(optimizer.state_dict()["state"], tensors))
    save_tensors(tensors, path, {**facts, "optimizer": state})


def _aside(tree: object, tensors: dict[str, Tensor]) -> object:
    """A tree of dictionaries, lists and numbers, its tensors put aside and named in their place."""
    if isinstance(tree, dict):
        return {str(key): _aside(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_aside(value, tensors) for value in tree]
    if not isinstance(tree, Tensor):
        return tree
    name = f"optimizer/{len(tensors)}"
    tensors[name] = tree
    return name


def _resume(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    path: Path,
    facts: dict[str, str],
) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            for name, value in facts.items():
                if found[name] != value:
                    raise ValueError(
                        f"{path} is the checkpoint of a run with {name} "
                        f"{found[name]}, not {value}; remove it to start anew"
                    )

            def put_back(tree: object) -> object:
                if isinstance(tree, dict):
                    return {key: put_back(value) for key, value in tree.items()}
                if isinstance(tree, list):
                    return [put_back(value) for value in tree]
                return file.get_tensor(tree) if isinstance(tree, str) else tree

            for name, parameter in parameters.items():
                parameter.data.copy_(file.get_tensor(f"parameter/{name}"))
            state = put_back(json.loads(found["optimizer"]))
            step = int(found["step"])
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of this network; remove it to start anew"
        ) from error
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        group["step"] = step  # SOAP counts there, Adam in its state
    assert isinstance(state, dict)
    by_number = {int(number): value for number, value in state.items()}
    optimizer.load_state_dict({"state": by_number, "param_groups": groups})
    return step


def _progress(steps: range) -> Iterable[tuple[int, Callable[[Losses], None]]]:
    """Steps with a bar that shows both losses, smoothed; without a terminal, a line in fifty."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    mean: Losses | None = None

    def report(losses: Losses) -> None:
        nonlocal mean
        mean = mean or losses
        mean = Losses(
            0.98 * mean.content + 0.02 * losses.content, 0.98 * mean.style + 0.02 * losses.style
        )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps.stop, completed=steps.start)
        for step in steps:
            yield step, report
            assert mean is not None
            text = f"content {mean.content:.4f}  style {mean.style:.4f}"
            bar.update(task, completed=step + 1, description=text)
            if not console.is_terminal and ((step + 1) % 50 == 0 or step + 1 == steps.stop):
                print(f"{step + 1}/{steps.stop}  {text}", file=sys.stderr, flush=True)


def _load(path: Path, size: int) -> Tensor:
    """A picture as (1, 3, H, W), reduced to a long side of at most ``size``."""
    image = _read(path)
    image.thumbnail((size, size))
    return _to_tensor(image)[None]


@torch.no_grad()
def _write_sheet(
    solver: UnrolledSolver, contents: list[Tensor], styles: list[Tensor], path: Path
) -> None:
    """Styles across the top, contents down the side, results between them."""
    cell = max(max(image.shape[-2:]) for image in contents + styles)
    sheet = Image.new("RGB", (cell * (len(styles) + 1), cell * (len(contents) + 1)), "white")

    def paste(image: Tensor, column: int, row: int) -> None:
        pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        sheet.paste(Image.fromarray(pixels), (column * cell, row * cell))

    for column, style in enumerate(styles, start=1):
        paste(style, column, 0)
        statistics = solver.statistics(style)
        for row, content in enumerate(contents, start=1):
            paste(content, 0, row)
            paste(solver(content, statistics), column, row)
    partial = path.with_suffix(".part")
    sheet.save(partial, "PNG")
    partial.replace(path)
