"""Training of a network for any style, on the artistic loss."""

from __future__ import annotations

import json
import math
import random
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import MIN_SIDE
from ..constraints import Photoreal
from ..losses import squared_norm, structure_loss
from ..network import ForwardMaps, UnrolledSolver
from ..statistics import Statistics
from ..vgg import STYLE_LAYERS, load_vgg19
from ..weights import load_solver, save_solver
from . import distributed
from .data import Picture, Pool, images, random_crop, whole
from .distillation import distil
from .gradient_alignment import gradient_mismatch
from .loop import Record, descend
from .objective import batch_terms, clip_straight_through
from .pack import Pictures, from_folders, read_pack
from .precision import Precision, convolutions_in, layout
from .preview import write_sheet
from .scores import scores as measured

_CUTOFFS = 0.003, 0.1  # of the projections trained with: log-uniform between these
_STEPS = 3000  # where neither steps nor minutes are given
_SHOWN = 320  # longer side of the pictures of a preview, at most


def train(
    content: str | Path | None,
    style: Sequence[str | Path],
    out: str | Path,
    *,
    pack: str | Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = 4,
    size: int | Sequence[int] = (96, 128, 160),
    style_weight: float = 20.0,
    lr: float = 2e-3,
    photoreal: float = 0.0,
    structure_weight: float = 0.0,
    noise_weight: float = 0.0,
    alignment_weight: float = 0.0,
    channels: Sequence[int] | None = None,
    residual: Sequence[int] | None = None,
    distil_steps: int = 1000,
    weights: str | Path | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    holdout: int = 50,
    preview_every: int = 500,
    scores: int = 0,
    tensorboard: str | Path | None = None,
    device: str = "cpu",
    vgg: str | Path | None = None,
    licence: str = "MIT",
) -> UnrolledSolver:
    """Train an :class:`UnrolledSolver` for any style; write its weights to ``out``.

    A new network's forward maps first learn to see as VGG does (`fastfcs.training.distillation`). Then
    every batch pairs contents with as many styles, each its own; H^s comes from the same forward
    maps. SOAP (Vyas et al., arXiv:2409.11321) with a short warm-up and a linear cool-down: the loss
    is ill-conditioned, the mean colour outweighing every texture. (On the same batches the style
    loss, relative to the unchanged contents', was 0.53 after 80 steps, Adam's 0.62 after 300.)
    What is written is the exponential moving average of the weights, at every checkpoint. Beside
    ``out`` stand the checkpoint, from which a run that was cut off goes on exactly where it was,
    and a preview sheet of held-out pictures. All are replaced, never half-written.

    Under ``torchrun`` each process takes its share of every batch (DistributedDataParallel): the
    crops, and thus the losses, are those of one process with the same ``batch``.

    Args:
        content: folder of photos; None with a ``pack``.
        style: folders of styles, each equally likely; may name ``content`` again.
        pack: a file of `fastfcs.training.pack`, instead of folders: its pictures are kept, decoded,
            on the device, and cut there.
        steps, minutes: how long; the rate falls with whichever ends first. By default 3000 steps.
        batch: pictures a step, of all processes together.
        size: side of the square crops, pixels, a multiple of 8. Of several, contents and styles
            take turns independently of each other, so that every combination occurs.
        style_weight: weight of the style term of :func:`batch_loss`.
        photoreal: share of the steps, in [0, 1], whose updates are projected as by
            ``constraint="photoreal"``, the cutoff random in 0.003 ... 0.1.
        structure_weight: in those steps, weight of `fastfcs.losses.structure_loss`.
        noise_weight: against flicker, weight of ||f(C + n) - f(C)||^2 / ||n||^2: how much a noise n
            of one grey level, which differs from frame to frame, is amplified by the updates f.
        alignment_weight: weight of `fastfcs.training.gradient_alignment.gradient_mismatch` at the result, one level a step:
            whether the forward maps see in which direction VGG's style loss still falls.
        channels, residual: of a new network, see :class:`UnrolledSolver`; fewer are faster.
        distil_steps: those in which the forward maps of a new network learn from VGG.
        weights: to go on from, name or file; by default the network starts anew.
        precision: of the convolutions; losses and parameters stay float32.
        holdout: the last so many pictures of ``content`` are never trained on, as style neither.
            A pack has its own.
        preview_every: steps from one checkpoint and preview to the next; a run of given minutes
            has them every 30 seconds, too.
        scores: so many held-out photos, and pairs of the pack, are measured before and after
            (`fastfcs.training.scores`), for a file ``.scores.json`` beside ``out``.
        tensorboard: folder for its log: losses, rate, norm of the gradients, pictures a second.
        vgg: see :func:`fastfcs.vgg.load_vgg19`.

    Raises:
        ValueError: an argument out of range, or a folder without pictures.
        Diverged: the loss is no longer finite.
    """
    sizes = [size] if isinstance(size, int) else list(size)
    if not sizes or any(s % 8 or s < MIN_SIDE for s in sizes):
        raise ValueError(f"size must be a multiple of 8 and at least {MIN_SIDE}, not {size}")
    if steps is None and minutes is None:
        steps = _STEPS
    if batch < 1 or (steps is not None and steps < 1):
        raise ValueError(f"steps and batch must be at least 1, not {steps} and {batch}")
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be positive, got {minutes}")
    if (content is None) == (pack is None):
        raise ValueError("content must be a folder, or pack a file, and not both")
    if channels is not None and (not channels or min(channels) < 5):
        raise ValueError(f"channels must be at least 5 on every level, not {channels}")
    if weights is not None and not (channels is residual is None):
        raise ValueError(
            "channels and residual are those of the weights that training goes on from: give one"
        )
    if not 0 <= photoreal <= 1:
        raise ValueError(f"photoreal must be a share of the steps, in [0, 1], not {photoreal}")
    out = Path(out)
    with ExitStack() as stack:
        rank, count = stack.enter_context(distributed.joined(device))
        if batch % count:
            raise ValueError(f"batch must divide among {count} processes, not {batch}")
        if minutes is not None and count > 1:  # whose clocks would not end at the same step
            raise ValueError(f"minutes must be given to a single process, not to {count}")
        data: Pictures[Any]
        if content is not None:
            data = from_folders(content, style, holdout)
        else:
            assert pack is not None
            data = read_pack(pack, device)
        words = ["fastfcs", "train", "--content", data.names[0]]  # names only: paths are private
        for name in data.names[1:]:
            words += ["--style", name]
        facts = {
            "trained by": shlex.join(words),
            "data": json.dumps(
                {"content": len(data.content), "style": [len(folder) for folder in data.styles]}
            ),
            **{"batch": str(batch), "size": " ".join(map(str, sizes)), "seed": str(seed)},
            **{"style weight": str(style_weight), "photoreal": str(photoreal)},
            **{"structure weight": str(structure_weight), "noise weight": str(noise_weight)},
            **{"sight weight": str(alignment_weight), "precision": precision},
            "start": Path(weights).name
            if weights
            else f"anew, {distil_steps} steps of distillation",
        }
        record = stack.enter_context(_recorder(tensorboard if rank == 0 else None, batch))

        torch.manual_seed(seed)
        memory_format = layout(precision)
        features = load_vgg19(vgg).to(device)
        solver = load_solver(weights).train() if weights else _new(channels, residual)
        solver.to(device)
        for module in (features, solver):
            module.to(memory_format=memory_format)  # type: ignore[call-overload]
        photos: Sequence[Sequence[Picture]] = [data.content]
        folders: Sequence[Sequence[Picture]] = data.styles
        checkpoint = out.with_suffix(".checkpoint.safetensors")

        def taught(maps: ForwardMaps) -> None:
            distil(
                maps,
                features,
                [*photos, *folders],
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
                for f in (photos, folders)
            ]
            begin, wanted = (crops.to(device) for crops in first)
            solver.initialise(begin, wanted, taught)
        places = range(rank, batch, count)
        scored: dict[str, Any] = {}

        def score(when: str, network: UnrolledSolver) -> None:
            scored[when] = measured(
                network, features, data, count=scores, size=max(sizes), style_weight=style_weight
            )
            out.parent.mkdir(parents=True, exist_ok=True)
            out.with_suffix(".scores.json").write_text(json.dumps(scored, indent=1))

        if weights and scores and rank == 0:
            score("before", solver)
        contents = [Pool(photos, features, s, places, f"{seed}/content/{s}") for s in sizes]
        styles = [Pool(folders, features, s, places, f"{seed}/style/{s}") for s in sizes]
        restyle = distributed.parallel(_Restyle(solver))
        seen = min(len(STYLE_LAYERS), len(solver.forward_maps))  # levels with a layer to see

        def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
            round_, turn = divmod(step, len(sizes))
            lap, style_turn = divmod(round_, len(sizes))
            rng = random.Random(f"{seed}/photoreal/{step}")
            projected = rng.random() < photoreal
            cutoff = math.exp(rng.uniform(*map(math.log, _CUTOFFS))) if projected else None
            with convolutions_in(precision, device):
                chosen = contents[turn].sample(round_)
                wanted = styles[style_turn].sample(lap * len(sizes) + turn)
                pictures, paintings = (
                    images(crops).contiguous(memory_format=memory_format)
                    for crops in (chosen, wanted)
                )
                noisy = None
                if noise_weight:
                    noise = _noise(pictures[0], [f"{seed}/noise/{step}/{p}" for p in places])
                    noisy = (pictures + noise.to(device)).clamp(0, 1)
                output, again = restyle(pictures, paintings, cutoff, noisy)
                content_term, style_terms = batch_terms(features, output, chosen, wanted)
                total = content_term + style_weight * style_terms.mean()
                if alignment_weight:
                    level = random.Random(f"{seed}/sight/{step}").randrange(seen)
                    blind = gradient_mismatch(
                        solver.forward_maps, level, style_terms[level], output, pictures, paintings
                    )
                    total = total + alignment_weight * blind
            if cutoff is not None and structure_weight:
                total = total + structure_weight * structure_loss(output.float(), pictures)
            if again is not None:
                assert noisy is not None
                amplified = squared_norm(again - output) / squared_norm(noisy - pictures)
                total = total + noise_weight * amplified.mean()
            return total, distributed.mean({"content": content_term, "style": style_terms.mean()})

        parameters = dict(solver.named_parameters())
        averages = {name: p.detach().clone() for name, p in parameters.items()}
        averaged = UnrolledSolver(**solver.architecture).to(device).requires_grad_(False)

        def save(done: int) -> None:
            averaged.load_state_dict(averages)
            about = {"steps": str(done), "lr": str(lr), "licence": licence}
            save_solver(averaged, out, {**facts, **about})

        def on_checkpoint(done: int) -> None:
            save(done)
            _preview(averaged, data, min(2 * max(sizes), _SHOWN), out.with_suffix(".preview.png"))

        done = descend(
            parameters,
            loss,
            checkpoint,
            facts=facts,
            steps=steps,
            minutes=minutes,
            lr=lr,
            every=preview_every,
            averages=averages,
            on_checkpoint=on_checkpoint,
            record=record,
            first=rank == 0,
        )
        averaged.load_state_dict(averages)
        if rank == 0:
            save(done)
            if scores:
                score("after", averaged)
    return averaged.requires_grad_(True)


def _preview(solver: UnrolledSolver, data: Pictures, size: int, path: Path) -> None:
    """A sheet of three held-out photos and two styles of each folder."""
    device = next(solver.parameters()).device
    photos = (data.held or data.content)[:: max(1, len(data.held) // 3)][:3]
    styles = [folder[len(folder) // 3 * k] for folder in data.styles for k in (0, 1)]
    rows, columns = ([whole(p, size).to(device) for p in each] for each in (photos, styles))
    write_sheet(solver, rows, columns, path)


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
            return clip_straight_through(self.solver(content, statistics))
        photoreal = Photoreal(content, cutoff)
        start = photoreal.start(statistics.colours)
        return photoreal.finish(self.solver(content, statistics, photoreal, start=start))


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
