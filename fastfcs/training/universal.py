"""Training of a network for any style, on the artistic loss."""

from __future__ import annotations

import json
import math
import random
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..constraints import SoftBox
from ..constraints.named import between_updates
from ..images import list_images
from ..losses import squared_norm, structure_loss
from ..network import (
    MIN_SIDE,
    ForwardMaps,
    Statistics,
    UnrolledSolver,
    as_shown,
    load_solver,
    save_solver,
)
from ..vgg import STYLE_LAYERS, load_vgg19
from . import processes
from .crops import Pool, images, random_crop, whole
from .descent import Record, descend, soap
from .distil import distil
from .objective import Losses, batch_terms
from .precision import Precision, convolutions_in
from .sheet import write_sheet
from .sight import blindness

_CUTOFFS = 0.003, 0.1  # of the projections trained with: log-uniform between these


def train(
    content: str | Path,
    style: Sequence[str | Path],
    out: str | Path,
    *,
    steps: int = 3000,
    batch: int = 4,
    size: int | Sequence[int] = (96, 128, 160),
    style_weight: float = 20.0,
    lr: float = 2e-3,
    photoreal: float = 0.0,
    structure_weight: float = 0.0,
    noise_weight: float = 0.0,
    sight_weight: float = 0.0,
    channels: Sequence[int] | None = None,
    residual: Sequence[int] | None = None,
    distil_steps: int = 1000,
    weights: str | Path | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    holdout: int = 50,
    preview_every: int = 500,
    tensorboard: str | Path | None = None,
    device: str = "cpu",
    vgg: str | Path | None = None,
    licence: str = "MIT",
) -> UnrolledSolver:
    """Train an :class:`UnrolledSolver` for any style; write its weights to ``out``.

    A new network's forward maps first learn to see as VGG does (`fastfcs.training.distil`). Then
    every batch pairs contents with as many styles, each its own; H^s comes from the same forward
    maps. SOAP (Vyas et al., arXiv:2409.11321) with a short warm-up and a linear cool-down: the loss
    is ill-conditioned, the mean colour outweighing every texture. (On the same batches the style
    loss, relative to the unchanged contents', was 0.53 after 80 steps, Adam's 0.62 after 300.)
    What is written is the exponential moving average of the weights. Beside ``out`` stand a
    checkpoint, from which a run that was cut off goes on exactly where it was, and a preview sheet
    of held-out pictures. Both are replaced, never half-written.

    Under ``torchrun`` each process takes its share of every batch (DistributedDataParallel): the
    crops, and thus the losses, are those of one process with the same ``batch``.

    Args:
        content: folder of photos.
        style: folders of styles, each equally likely; may name ``content`` again.
        batch: pictures a step, of all processes together.
        size: side of the square crops, pixels, a multiple of 8. Of several, contents and styles
            take turns independently of each other, so that every combination occurs.
        style_weight: weight of the style term of :func:`batch_loss`.
        photoreal: share of the steps, in [0, 1], whose updates are projected as by
            ``constraint="photoreal"``, the cutoff random in 0.003 ... 0.1.
        structure_weight: in those steps, weight of `fastfcs.losses.structure_loss`.
        noise_weight: against flicker, weight of ||f(C + n) - f(C)||^2 / ||n||^2: how much a noise n
            of one grey level, which differs from frame to frame, is amplified by the updates f.
        sight_weight: weight of `fastfcs.training.sight.blindness` at the result, one level a step:
            whether the forward maps see in which direction VGG's style loss still falls.
        channels, residual: of a new network, see :class:`UnrolledSolver`; fewer are faster.
        distil_steps: those in which the forward maps of a new network learn from VGG.
        weights: to go on from, name or file; by default the network starts anew.
        precision: of the convolutions; losses and parameters stay float32.
        holdout: the last so many pictures of ``content`` are never trained on, as style neither.
        preview_every: steps from one checkpoint and preview to the next.
        tensorboard: folder for its log: losses, rate, norm of the gradients, pictures a second.
        vgg: see :func:`fastfcs.vgg.load_vgg19`.

    Raises:
        ValueError: an argument out of range, or a folder without pictures.
        Diverged: the loss is no longer finite.
    """
    sizes = [size] if isinstance(size, int) else list(size)
    if not sizes or any(s % 8 or s < MIN_SIDE for s in sizes):
        raise ValueError(f"size must be a multiple of 8 and at least {MIN_SIDE}, not {size}")
    if min(steps, batch) < 1:
        raise ValueError(f"steps and batch must be at least 1, not {steps} and {batch}")
    if channels is not None and (not channels or min(channels) < 5):
        raise ValueError(f"channels must be at least 5 on every level, not {channels}")
    if weights is not None and not (channels is residual is None):
        raise ValueError(
            "channels and residual are those of the weights that training goes on from: give one"
        )
    if not 0 <= photoreal <= 1:
        raise ValueError(f"photoreal must be a share of the steps, in [0, 1], not {photoreal}")
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
        **{"batch": str(batch), "size": " ".join(map(str, sizes)), "seed": str(seed)},
        **{"style weight": str(style_weight), "photoreal": str(photoreal)},
        **{"structure weight": str(structure_weight), "noise weight": str(noise_weight)},
        **{"sight weight": str(sight_weight), "precision": precision},
        "start": Path(weights).name if weights else f"anew, {distil_steps} steps of distillation",
    }

    with ExitStack() as stack:
        rank, count = stack.enter_context(processes.joined(device))
        if batch % count:
            raise ValueError(f"batch must divide among {count} processes, not {batch}")
        record = stack.enter_context(_recorder(tensorboard if rank == 0 else None, batch))

        torch.manual_seed(seed)
        features = load_vgg19(vgg).to(device)
        solver = load_solver(weights).train() if weights else _new(channels, residual)
        solver.to(device)
        checkpoint = out.with_suffix(".checkpoint.safetensors")

        def taught(maps: ForwardMaps) -> None:
            distil(
                maps,
                features,
                [photos, *folders],
                sizes=sizes,
                steps=distil_steps,
                seed=seed,
                precision=precision,
                device=device,
                shown=rank == 0,
            )

        if not weights and not checkpoint.is_file():
            rng = random.Random(f"{seed}/start")
            first = [
                torch.stack(
                    [random_crop(rng.choice(rng.choice(f)), sizes[0], rng) for _ in range(4)]
                )
                for f in ([photos], folders)
            ]
            begin, wanted = (crops.to(device) for crops in first)
            solver.initialise(begin, wanted, taught)
        places = range(rank, batch, count)
        contents = [Pool([photos], features, s, places, f"{seed}/content/{s}") for s in sizes]
        styles = [Pool(folders, features, s, places, f"{seed}/style/{s}") for s in sizes]
        restyle = processes.parallel(_Restyle(solver))
        seen = min(len(STYLE_LAYERS), len(solver.forward_maps))  # levels with a layer to see

        def loss(step: int) -> tuple[Tensor, Losses]:
            round_, turn = divmod(step, len(sizes))
            lap, style_turn = divmod(round_, len(sizes))
            rng = random.Random(f"{seed}/photoreal/{step}")
            projected = rng.random() < photoreal
            cutoff = math.exp(rng.uniform(*map(math.log, _CUTOFFS))) if projected else None
            with convolutions_in(precision, device):
                chosen = contents[turn].sample(round_)
                wanted = styles[style_turn].sample(lap * len(sizes) + turn)
                pictures = images(chosen)
                noisy = None
                if noise_weight:
                    noise = _noise(pictures[0], [f"{seed}/noise/{step}/{p}" for p in places])
                    noisy = (pictures + noise.to(device)).clamp(0, 1)
                output, again = restyle(pictures, images(wanted), cutoff, noisy)
                content_term, style_terms = batch_terms(features, output, chosen, wanted)
                total = content_term + style_weight * style_terms.mean()
                if sight_weight:
                    level = random.Random(f"{seed}/sight/{step}").randrange(seen)
                    blind = blindness(
                        *(solver.forward_maps, level, style_terms[level]),
                        *(output, pictures, images(wanted)),
                    )
                    total = total + sight_weight * blind
            if cutoff is not None and structure_weight:
                total = total + structure_weight * structure_loss(output.float(), pictures)
            if again is not None:
                assert noisy is not None
                amplified = squared_norm(again - output) / squared_norm(noisy - pictures)
                total = total + noise_weight * amplified.mean()
            return total, Losses(*processes.mean(content_term.item(), style_terms.mean().item()))

        parameters = dict(solver.named_parameters())
        averages = {name: p.detach().clone() for name, p in parameters.items()}
        averaged = UnrolledSolver(**solver.architecture).to(device).requires_grad_(False)

        def preview() -> None:
            averaged.load_state_dict(averages)
            shown = (held or photos)[:: max(1, len(held) // 3)][:3]
            side = 2 * max(sizes)
            rows = [whole(p, side).to(device) for p in shown]
            columns = [whole(f[len(f) // 3 * k], side).to(device) for f in folders for k in (0, 1)]
            write_sheet(averaged, rows, columns, out.with_suffix(".preview.png"))

        done = descend(
            parameters,
            soap(parameters.values(), lr),
            loss,
            checkpoint,
            facts=facts,
            steps=steps,
            lr=lr,
            every=preview_every,
            averages=averages,
            on_checkpoint=preview,
            record=record,
            first=rank == 0,
        )
        averaged.load_state_dict(averages)
        if rank == 0:
            save_solver(
                averaged, out, {**facts, "steps": str(done), "lr": str(lr), "licence": licence}
            )
    return averaged.requires_grad_(True)


def _new(channels: Sequence[int] | None, residual: Sequence[int] | None) -> UnrolledSolver:
    if channels is None:
        return UnrolledSolver(residual=residual)
    return UnrolledSolver(channels=channels, residual=residual)


class _Restyle(nn.Module):
    """All of a step that has parameters: the statistics of the styles and the updates."""

    def __init__(self, solver: UnrolledSolver) -> None:
        super().__init__()
        self.solver = solver

    def forward(
        self, content: Tensor, style: Tensor, cutoff: float | None, noisy: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The contents restyled, and so the noisy ones, if there are any."""
        statistics = self.solver.statistics(style)
        result = self._restyled(content, statistics, cutoff)
        return result, None if noisy is None else self._restyled(noisy, statistics, cutoff)

    def _restyled(self, content: Tensor, statistics: Statistics, cutoff: float | None) -> Tensor:
        if cutoff is None:
            return as_shown(self.solver(content, statistics))
        constraint = between_updates(("photoreal",), content, cutoff)
        return SoftBox(content)(self.solver(content, statistics, constraint, shifted=True))


def _noise(like: Tensor, seeds: Sequence[str]) -> Tensor:
    """Noise of one grey level for pictures of a shape (3, H, W), one a seed; on the CPU."""
    generators = (torch.Generator().manual_seed(random.Random(s).getrandbits(63)) for s in seeds)
    return torch.stack([torch.randn(like.shape, generator=g) / 255 for g in generators])


@contextmanager
def _recorder(folder: str | Path | None, batch: int) -> Iterator[Record]:
    """Writes what `descend` tells of each step for TensorBoard; nothing without a folder."""
    if folder is None:
        yield lambda step, numbers: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def record(step: int, numbers: dict[str, float]) -> None:
            for name in ("content", "style", "rate", "norm"):
                writer.add_scalar(name, numbers[name], step)
            writer.add_scalar("pictures a second", batch / numbers["seconds"], step)

        yield record
