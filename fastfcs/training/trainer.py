"""Training of a network for any style, on the artistic loss."""

from __future__ import annotations

import json
import math
import random
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..constraints.registry import BetweenUpdates
from ..files import write_text
from ..losses import structure_loss
from ..network import ForwardMaps, UnrolledSolver
from ..reproducible import squared_norm
from ..vgg import STYLE_LAYERS, load_vgg19
from ..weights import load_solver, save_solver
from .config import TrainConfig
from .data import Crop, Picture, Pool, random_crop, whole_picture
from .distillation import distil
from .distributed import average, data_parallel, process_group
from .gradient_alignment import gradient_mismatch
from .loop import Record, autocast, descend
from .objective import clip_straight_through
from .pack import Pictures, from_folders, read_pack
from .preview import write_preview
from .scales import LEAST_LOSS, LEAST_START, coarse_start, images_of, mean_terms, scales_of
from .scores import score

_CUTOFFS = 0.003, 0.1  # range of the constraint's random cutoff, log-uniform
_SHARES = 0.5, 1.0  # range of the random share w of the coarser scale's change
_INITIAL_CROPS = 4  # number of contents, and of styles, on which a new network is initialised
_PREVIEW_SIDE = 320  # longer side of the pictures of a preview in pixels, at most


def train(
    content: str | Path | None,
    style: Sequence[str | Path],
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    pack: str | Path | None = None,
    device: str = "cpu",
    tensorboard: str | Path | None = None,
    vgg: str | Path | None = None,
) -> UnrolledSolver:
    """Train a network for any style; write its weights.

    See `Trainer` for the method. A checkpoint, from which an interrupted run resumes exactly where
    it was, and a preview of held-out pictures are written next to ``out``. All files are complete
    at any time.

    Under ``torchrun`` each process takes its share of every batch (DistributedDataParallel); the
    crops, and thus the losses, are those of one process with the same ``batch``.

    Args:
        content: folder of photos; None with a ``pack``.
        style: folders of styles, each equally likely; may include ``content``.
        out: the safetensors file to write.
        config: the settings, by default ``TrainConfig()``.
        pack: a file of `fastfcs.training.pack`, instead of folders: its pictures are decoded once,
            kept on the device and cropped there.
        device: where to train; "cuda" is each process's own GPU.
        tensorboard: folder for TensorBoard's log of losses, learning rate, norm of the gradients
            and pictures per second.
        vgg: see `fastfcs.vgg.load_vgg19`.

    Returns:
        The network with averaged weights, as written.

    Raises:
        ValueError: there is neither a content folder nor a pack, or both; a folder contains no
            pictures; the settings do not suit the number of processes; or the checkpoint belongs to
            another run.
        Diverged: the loss or a gradient is no longer finite.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.training import TrainConfig, train
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for k in range(2):
        ...     Image.effect_noise((24, 16), 50).convert("RGB").save(folder / f"{k}.png")
        >>> config = TrainConfig(steps=1, batch=1, size=16, weights="tiny", holdout=1)
        >>> _ = train(folder, [folder], folder / "weights.safetensors", config)
        >>> sorted(file.name for file in folder.glob("weights.*"))
        ['weights.checkpoint.pt', 'weights.preview.png', 'weights.safetensors']
    """
    config = config or TrainConfig()
    with process_group(device) as (rank, processes):
        pictures: Pictures[Any]
        if content is not None and pack is None:
            pictures = from_folders(content, style, config.holdout)
        elif content is None and pack is not None:
            pictures = read_pack(pack, device)
        else:
            raise ValueError(f"content or pack must be given, and not both, got {content}, {pack}")
        trainer = Trainer(
            pictures, out, config, device=device, vgg=vgg, rank=rank, processes=processes
        )
        with _recorder(tensorboard if rank == 0 else None, config.batch) as record:
            return trainer.run(record)


class Trainer:
    """One run of training.

    The forward maps of a new network first learn to predict VGG's features
    (`fastfcs.training.distillation`). Every batch then pairs contents with as many styles, each
    with its own statistics, which the same forward maps compute. SOAP (Vyas et al.,
    arXiv:2409.11321) minimises the loss with a short warm-up and a linear cool-down. The loss is
    ill-conditioned, since the mean colour outweighs every texture: on the same batches the style
    loss, relative to that of the unchanged contents, was 0.53 after 80 steps of SOAP and 0.62 after
    300 of Adam. The weights that are written are exponential moving averages.

    Args:
        pictures: files, or pixels on the device.
        out: the safetensors file to write; all other files of the run are written next to it.
        config: the settings.
        device: where to train.
        vgg: see `fastfcs.vgg.load_vgg19`.
        rank: rank of this process; the first, 0, writes all files.
        processes: number of processes that train together.

    Attributes:
        solver: the network.
        vgg: the network of the losses.

    Raises:
        ValueError: the settings do not suit the number of processes.

    Examples:
        >>> import torch
        >>> from fastfcs.training import TrainConfig, Trainer
        >>> from fastfcs.training.pack import Pictures
        >>> photo, painting = torch.randint(256, (2, 3, 20, 30)).byte()
        >>> pictures = Pictures(["photos", "art"], [photo], [[painting]], [photo], [painting], [])
        >>> config = TrainConfig(batch=1, size=16, weights="tiny")
        >>> trainer = Trainer(pictures, "weights.safetensors", config)
        >>> trainer.prepare()
        >>> loss, terms = trainer.loss(step=0)
        >>> loss.requires_grad, sorted(terms)
        (True, ['content', 'style'])
    """

    def __init__(
        self,
        pictures: Pictures[Any],
        out: str | Path,
        config: TrainConfig,
        *,
        device: str = "cpu",
        vgg: str | Path | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if config.batch % processes:
            raise ValueError(
                f"batch must be a multiple of the {processes} processes, got {config.batch}"
            )
        if config.minutes is not None and processes > 1:  # their clocks would not agree on the end
            raise ValueError(
                f"minutes must be left out with {processes} processes, got {config.minutes}"
            )
        self.config, self.device, self._pictures = config, device, pictures
        self._out, self._checkpoint = Path(out), Path(out).with_suffix(".checkpoint.pt")
        self._is_first = rank == 0
        self._positions = range(rank, config.batch, processes)
        self._folders: dict[str, Sequence[Sequence[Picture]]] = {
            "content": [pictures.content],
            "style": pictures.styles,
        }
        self._scores: dict[str, Any] = {}
        torch.manual_seed(config.seed)
        self.vgg = load_vgg19(vgg).to(device)
        self.solver = self._load().to(device)
        for module in (self.vgg, self.solver):
            # torch's overloads of `to` lack the one that takes a memory format alone.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(self, record: Record = lambda step, numbers: None) -> UnrolledSolver:
        """Train, from the checkpoint if there is one, and write all files.

        Args:
            record: see `fastfcs.training.loop.descend`.

        Returns:
            The network with averaged weights.

        Raises:
            ValueError: the checkpoint belongs to another run, or a file is not a picture.
            Diverged: the loss or a gradient is no longer finite.
        """
        if self.config.weights:
            self._score("before", self.solver)
        self.prepare()
        done = descend(
            dict(self.solver.named_parameters()),
            self.loss,
            self._checkpoint,
            metadata=self._metadata(),
            steps=self.config.step_limit,
            minutes=self.config.minutes,
            lr=self.config.lr,
            every=self.config.preview_every,
            averages=self._averages,
            on_checkpoint=self._write,
            record=record,
            is_first=self._is_first,
        )
        if self._is_first:
            self.save(done)
        self._score("after", self._averaged())
        return self._averaged().requires_grad_(True)

    def prepare(self) -> None:
        """Prepare the data, and initialise a new network unless a checkpoint replaces it."""
        config = self.config
        if not config.weights and not self._checkpoint.is_file():
            self._initialise()
        self._pools = {
            kind: [
                Pool(
                    folders,
                    self.vgg,
                    size,
                    self._positions,
                    f"{config.seed}/{kind}/{size}",
                    scales_of(size, LEAST_LOSS, config.levels),
                )
                for size in config.sizes
            ]
            for kind, folders in self._folders.items()
        }
        self._restyle = data_parallel(_Restyle(self.solver))
        self._averages = {
            name: parameter.detach().clone() for name, parameter in self.solver.named_parameters()
        }

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a step, after `prepare`.

        Args:
            step: number of the step, from 0.

        Returns:
            The loss of this process's part of the batch, a scalar, and the terms "content" and
            "style", averaged over the processes.

        Raises:
            ValueError: a file is not a picture.
        """
        config, cutoff = self.config, self._cutoff(step)
        with autocast(config.precision, self.device):
            crops, style_crops = self._sample(step)
            most = config.levels if cutoff is None else 1
            scales = scales_of(crops[0].image.shape[-1], LEAST_START, most)
            contents, styles = images_of(crops, scales), images_of(style_crops, scales)
            noisy = self._add_noise(contents[0], step) if config.noise_weight else None
            output, noisy_output = self._restyle(contents, styles, cutoff, self._share(step), noisy)
            content_term, style_terms = mean_terms(self.vgg, output, crops, style_crops)
            total: Tensor = content_term + config.style_weight * style_terms.mean()
            if config.alignment_weight:
                level = self._level(step)
                mismatch = gradient_mismatch(
                    self.solver.forward_maps,
                    level,
                    style_terms[level],
                    output,
                    contents[0],
                    styles[0],
                )
                total = total + config.alignment_weight * mismatch
        if config.structure_weight and cutoff is not None:
            total = total + config.structure_weight * structure_loss(output.float(), contents[0])
        if noisy is not None:
            amplification = squared_norm(noisy_output - output) / squared_norm(noisy - contents[0])
            total = total + config.noise_weight * amplification.mean()
        return total, average({"content": content_term, "style": style_terms.mean()})

    def save(self, done: int) -> None:
        """Write the averaged weights.

        Args:
            done: number of steps so far, for the header.

        Raises:
            OSError: the file cannot be written.
        """
        steps = {"steps": str(done), "lr": str(self.config.lr), "licence": self.config.licence}
        save_solver(self._averaged(), self._out, self._metadata() | steps)

    def preview(self) -> None:
        """Write the preview: three held-out photos in two styles of each folder.

        Raises:
            OSError: the file cannot be written.
        """
        size = min(2 * max(self.config.sizes), _PREVIEW_SIDE)
        held_out = self._pictures.held_out
        photos = (held_out or self._pictures.content)[:: max(1, len(held_out) // 3)][:3]
        styles = [folder[len(folder) // 3 * k] for folder in self._pictures.styles for k in (0, 1)]
        rows, columns = (
            [whole_picture(picture, size).to(self.device) for picture in pictures]
            for pictures in (photos, styles)
        )
        write_preview(self._averaged(), rows, columns, self._out.with_suffix(".preview.png"))

    def _write(self, done: int) -> None:
        self.save(done)
        self.preview()

    def _load(self) -> UnrolledSolver:
        config = self.config
        if config.weights:
            return load_solver(config.weights).train()
        if config.channels is None:
            return UnrolledSolver(residual=config.residual)
        return UnrolledSolver(channels=config.channels, residual=config.residual)

    def _initialise(self) -> None:
        """Initialise a new network on a few crops, training its forward maps before the rest."""
        config, rng = self.config, random.Random(f"{self.config.seed}/start")
        contents, styles = (
            torch.stack(
                [
                    random_crop(rng.choice(rng.choice(folders)), config.sizes[0], rng)
                    for _ in range(_INITIAL_CROPS)
                ]
            ).to(self.device)
            for folders in self._folders.values()
        )
        self.solver.initialise(contents, styles, self._distil)

    def _distil(self, maps: ForwardMaps) -> None:
        distil(
            maps,
            self.vgg,
            [folder for folders in self._folders.values() for folder in folders],
            sizes=self.config.sizes,
            steps=self.config.distil_steps,
            seed=self.config.seed,
            precision=self.config.precision,
            device=self.device,
            shown=self._is_first,
        )

    def _sample(self, step: int) -> tuple[list[Crop], list[Crop]]:
        """The crops of contents and of styles.

        All combinations of sizes take turns, but with several scales, contents and styles have the
        same size, as the scales of a picture and of its style do.
        """
        sizes = len(self.config.sizes)
        content_step, content_size = divmod(step, sizes)
        contents = self._pools["content"][content_size].sample(content_step)
        if self.config.levels > 1:
            return contents, self._pools["style"][content_size].sample(content_step)
        cycle, style_size = divmod(content_step, sizes)
        style_step = cycle * sizes + content_size
        return contents, self._pools["style"][style_size].sample(style_step)

    def _share(self, step: int) -> float:
        """The random share of the coarser scale's change."""
        return random.Random(f"{self.config.seed}/share/{step}").uniform(*_SHARES)

    def _cutoff(self, step: int) -> float | None:
        """The random cutoff of a constrained step; None for the others."""
        rng = random.Random(f"{self.config.seed}/photoreal/{step}")
        if rng.random() >= self.config.photoreal:
            return None
        return math.exp(rng.uniform(*map(math.log, _CUTOFFS)))

    def _level(self, step: int) -> int:
        """The random level of a step whose gradient is aligned; it needs a layer of VGG."""
        levels = min(len(STYLE_LAYERS), len(self.solver.forward_maps))
        # The seed contains a former name of this loss; any other would draw other levels.
        return random.Random(f"{self.config.seed}/sight/{step}").randrange(levels)

    def _add_noise(self, contents: Tensor, step: int) -> Tensor:
        """The contents with noise of one grey level, independent of the number of processes."""
        seeds = (f"{self.config.seed}/noise/{step}/{position}" for position in self._positions)
        numbers = (random.Random(seed).getrandbits(63) for seed in seeds)
        generators = (torch.Generator().manual_seed(number) for number in numbers)
        shape = contents.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=g) / 255 for g in generators])
        return (contents + noise.to(self.device)).clamp(0, 1)

    def _averaged(self) -> UnrolledSolver:
        """A network with the averaged weights."""
        with torch.device("meta"):
            solver = UnrolledSolver(**self.solver.architecture)
        averages = {name: tensor.contiguous() for name, tensor in self._averages.items()}
        solver.load_state_dict(averages, assign=True)
        return solver.requires_grad_(False)

    def _metadata(self) -> dict[str, str]:
        """How the network is trained, for headers; paths are reduced to names for privacy."""
        config, pictures = self.config, self._pictures
        words = ["fastfcs", "train", "--content", pictures.names[0]]
        for name in pictures.names[1:]:
            words += ["--style", name]
        numbers = {"content": len(pictures.content), "style": [len(s) for s in pictures.styles]}
        start = f"from scratch, {config.distil_steps} steps of distillation"
        return {
            "trained by": shlex.join(words),
            "data": json.dumps(numbers),
            "batch": str(config.batch),
            "size": " ".join(map(str, config.sizes)),
            "levels": str(config.levels),
            "seed": str(config.seed),
            "style weight": str(config.style_weight),
            "photoreal": str(config.photoreal),
            "structure weight": str(config.structure_weight),
            "noise weight": str(config.noise_weight),
            "alignment weight": str(config.alignment_weight),
            "precision": config.precision,
            "start": Path(config.weights).name if config.weights else start,
        }

    def _score(self, when: str, solver: UnrolledSolver) -> None:
        """Measure a network, "before" or "after"; write all measurements so far."""
        if not self.config.scores or not self._is_first:
            return
        self._scores[when] = score(
            solver,
            self.vgg,
            self._pictures,
            count=self.config.scores,
            size=max(self.config.sizes),
            style_weight=self.config.style_weight,
        )
        self._out.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._out.with_suffix(".scores.json"), json.dumps(self._scores, indent=1))


class _Restyle(nn.Module):
    """The part of a step with trainable parameters: the styles' statistics and the updates."""

    def __init__(self, solver: UnrolledSolver) -> None:
        super().__init__()
        self.solver = solver

    def forward(
        self,
        contents: list[Tensor],
        styles: list[Tensor],
        cutoff: float | None,
        share: float,
        noisy: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Restyle the contents, and the noisy ones if there are any; finest scales come first."""
        statistics = self.solver.statistics(styles[0])
        with torch.no_grad():
            coarser = [self.solver.statistics(style) for style in styles[1:]]
        first = coarse_start(self.solver, contents, [statistics, *coarser], share)

        def restyle(content: Tensor) -> Tensor:
            if cutoff is None:
                return clip_straight_through(self.solver(content, statistics, start=first))
            updates = self.solver.updates
            between = BetweenUpdates(("photoreal",), content, cutoff, updates=updates)
            x = self.solver(content, statistics, between, start=between.start(statistics.colours))
            return between.finish(x)

        return restyle(contents[0]), None if noisy is None else restyle(noisy)


@contextmanager
def _recorder(folder: str | Path | None, batch: int) -> Iterator[Record]:
    """Record steps for TensorBoard; without a folder, record nothing."""
    if folder is None:
        yield lambda step, numbers: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def record(step: int, numbers: dict[str, float]) -> None:
            for name in ("content", "style", "rate", "norm"):
                writer.add_scalar(name, numbers[name], step)
            writer.add_scalar("pictures per second", batch / numbers["seconds"], step)

        yield record
