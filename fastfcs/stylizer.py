"""`Stylizer`: network, style and constraint in one module, for tensors, arrays and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from . import images, presets, pyramid
from .checks import MIN_SIDE, check_brush, check_regions, check_visible
from .constraints.coarse import coarser
from .constraints.photoreal import CUTOFF, Photoreal
from .constraints.registry import BetweenUpdates, Part, is_photoreal, parse
from .filters import LowPass, capped
from .grading import Appearance, load_grading
from .images import AnyImage, ImageBatch, Picture
from .large import SOLVE_SIZE, apply_change, fit_change
from .look import POINTS, Look, fit_look
from .losses import luma, visible_masks
from .memory import free_memory, return_freed
from .network import Solver
from .precision import Precision, choose
from .precision import parse as parse_precision
from .refinement import RefinedSolver, Refinement, photograph_work, refine_photograph
from .regions import resize
from .statistics import (
    Scales,
    Statistics,
    StatisticsBuffers,
    cat,
    check_widths,
    scales_from_named,
)
from .weights import is_shipped, load_network

Style: TypeAlias = AnyImage | str | Path
# Cutoffs of a refined photograph over that of its network: of the chroma of its change, and of the
# luma in the small picture and in the result.
_CHROMA, _LUMA = 2.5, (20, 10)
STRUCTURE = 0.25
"""The default of ``structure``."""

SMALL_STYLE = 96
"""Shorter side, in pixels, below which a style is continued by mirror images of itself."""

ENOUGH = 1_300_000_000
"""Bytes for a painting on a CPU by default, even if more is free: tiles take little more time."""

LOOK_SIZE = 512
"""Longer side, in pixels, at which the pictures of a look are restyled."""

LOOK_SHARE = 0.2
"""Weight of the network's result in a look, beside that of `fastfcs.grading`."""

T = TypeVar("T", Tensor, Image.Image, NDArray[Any], Picture)


class Stylizer(nn.Module):
    """Restyles images in the style of a reference picture (Puy and Pérez, CVPR 2019).

    An image may be any of the following, and the result has the content's type, size, dtype and
    range:

    - a tensor (3, H, W) or (B, 3, H, W), floating, in [0, 1], on any device;
    - an array (H, W, 3): uint8, uint16, or floating in [0, 1];
    - a PIL image. Grey and palette images become RGB, transparency and the colour profile are kept,
      and the EXIF orientation is applied. Grey of 16 bits becomes RGB of 8, as Pillow has no other;
    - a `fastfcs.images.Picture`, as `fastfcs.images.read` returns it, of 8 or 16 bits.

    Hidden pixels, of alpha 0, count for nothing, in a content or a style, and stay as they are;
    translucent ones count by their alpha and are restyled in full.

    H and W are at least 16. The network works on the module's own device and in its own dtype;
    images are moved there and results are moved back. Pictures and PIL images with a colour
    profile are compared in sRGB, and the result returns to the content's profile. X is clipped to
    [0, 1] before a constraint and at the end. "photoreal" uses soft clipping instead, see
    `fastfcs.constraints.Photoreal`.

    On CUDA the host never waits for a tensor, so a call can be captured into a CUDA graph. For that
    reason the values of CUDA tensors, unlike all others, are not checked.

    Torch's grad mode is respected, and weights read from a file are frozen. A graph is therefore
    recorded only if the content requires gradients (or after ``requires_grad_()``), and the result
    is then differentiable in it, with the Laplacian of "photoreal" as a constant.

    `torch.compile` and `torch.export.export` trace a call whole if its arguments are tensors; the
    program raises a RuntimeError for values outside [0, 1]. An exported program serves any batch
    size but one height and width, with which the windows of constraints grow. For the same reason,
    pass ``dynamic=False`` to `torch.compile` if sizes vary: it then compiles once per size. A saved
    program can be loaded once ``import fastfcs.ops`` has registered its operators.

    Args:
        style: see `set_style`. With None, set it later, or load it by ``load_state_dict``.
        weights: "universal", "small", "tiny", a safetensors file, or an `UnrolledSolver` or
            `RefinedSolver`, which is used as it is.
        refine: whether further updates with VGG-like features follow (`fastfcs.refinement`), which
            bring results closer to their style. By default, photographs are refined, at a longer
            side of at most 384 pixels (`fastfcs.refinement.refine_photograph`), and paintings are
            not, since that takes several times as long on a CPU: with None, the stylizer refines
            if it is made with the constraint "photoreal" and the name or file of its weights.
        constraint: enforced after every update of the network: None; "photoreal", which keeps the
            result a photograph; "keep-colour", which restyles only the luminance; "keep-luminance",
            which restyles only the colours; any callable X -> X on (B, 3, H, W), which is called at
            the content's own size alone; or a list of these, applied in order. A painting of
            several scales has it enforced once more at the end of each.
        strength: in [0, 1]; 0 returns the content exactly, 1 the full result.
        cutoff: the cutoff of "photoreal", in (0, 9): a larger one transfers more style, a smaller
            one preserves more structure. None is the default of `Photoreal`.
        solve_size: longer side, in pixels, at which larger photographs are restyled ("photoreal").
            The change is then applied at full size, in one pass over the samples
            (`fastfcs.large`). None restyles every photograph at its own size, which takes
            memory and time in proportion to its pixels, as does a constraint that is not a name.
        style_size: longer side, in pixels, to which larger style pictures are reduced, since
            computing statistics takes as much memory as restyling; None never reduces them.
        levels: the largest number of scales from coarse to fine (`fastfcs.pyramid`). By default as
            many as the picture's size allows, the first with a longer side of 128 pixels; 1 works
            at the picture's size alone. "photoreal" always has one.
        structure: in [0, 1]; how much of the content's structure is kept: each scale starts from
            the content plus 1 - ``structure`` of the coarser scale's change.
        brush: size of the strokes relative to the picture, in [0.25, 4]; at 1 they are as large as
            in the style picture if both are shown equally large. Not with a preset, which has its
            own, and without effect on "photoreal".
        precision: arithmetic of the network: "float32"; "bfloat16" or "float16", which accumulate
            in float32; or "auto", the fastest on the device whose results are as close to those of
            float32 as docs/results.md says. For weights that do not ship, and for paintings that
            are refined, "auto" is the parameters' dtype. Gram matrices and what is made of them, X
            and constraints are in float32 always.
        memory: what restyling may take, in bytes, beside the parameters; None is most of what is
            free, and on a CPU at most 1.3 GB. Paintings that would take more are made in tiles
            (`fastfcs.tiles`), which takes longer and leaves no seams. Photographs, traced programs
            and recorded graphs have none.

    Raises:
        ValueError, TypeError: an argument is not as described above.
        FileNotFoundError: there are no such weights.

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> content, style = torch.rand(3, 24, 32), torch.rand(3, 20, 20)
        >>> stylizer = Stylizer(style, weights="tiny", constraint="photoreal")
        >>> stylizer(content).shape
        torch.Size([3, 24, 32])
        >>> stylizer.strength = 0
        >>> bool(torch.equal(stylizer(content), content))
        True

        A program for every batch size:

        >>> from fastfcs.network import UnrolledSolver
        >>> from torch.export import Dim, export
        >>> small = Stylizer(style, weights=UnrolledSolver(updates=1, channels=(8, 8)))
        >>> batches = ({0: Dim("B")},)
        >>> program = export(small, (content.expand(2, 3, 24, 32),), dynamic_shapes=batches)
        >>> program.module()(torch.rand(5, 3, 24, 32)).shape
        torch.Size([5, 3, 24, 32])
    """

    def __init__(
        self,
        style: Style | Sequence[Style] | None = None,
        *,
        weights: str | Path | Solver = "universal",
        refine: bool | None = None,
        constraint: Part | Sequence[Part] | None = None,
        strength: float = 1.0,
        cutoff: float | None = None,
        solve_size: int | None = SOLVE_SIZE,
        style_size: int | None = pyramid.STYLE_SIDE,
        levels: int | None = None,
        structure: float = STRUCTURE,
        brush: float = 1.0,
        precision: str = "auto",
        memory: int | None = None,
    ) -> None:
        super().__init__()
        parts = parse(constraint, cutoff)
        if style_size is not None and style_size < MIN_SIDE:
            raise ValueError(f"style_size must be None or at least {MIN_SIDE}, got {style_size}")
        self.solve_size = solve_size
        check_brush(brush)
        self.strength, self.brush = strength, brush
        self.levels, self.structure = levels, structure
        self.precision = precision
        self.memory = memory
        self.style_size = style_size
        self.solver: Solver
        if isinstance(weights, (str, Path)):
            refined = "photoreal" in parts if refine is None else refine
            self.solver = load_network(weights, refined).requires_grad_(False)
        elif not isinstance(weights, nn.Module):
            kind = type(weights).__name__
            raise TypeError(f"weights must be a name, a file or a network, got {kind}")
        elif refine:
            raise ValueError("refine must be None or False if weights is a network, got True")
        else:
            self.solver = weights
        self._is_shipped = isinstance(weights, str) and is_shipped(weights)
        self.constraint = parts  # checked against the solver
        self.cutoff = cutoff
        self.statistics = StatisticsBuffers()
        if style is not None:
            self.set_style(style)

    @property
    def strength(self) -> float:
        """The position between the content, 0, and the full result, 1."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"strength must be in [0, 1], got {value}")
        self._strength = float(value)

    @property
    def levels(self) -> int | None:
        """The largest number of scales; None is as many as fit."""
        return self._levels

    @levels.setter
    def levels(self, value: int | None) -> None:
        if value is not None and value < 1:
            raise ValueError(f"levels must be None or at least 1, got {value}")
        self._levels = value

    @property
    def structure(self) -> float:
        """How much of the content's structure is kept, in [0, 1]."""
        return self._structure

    @structure.setter
    def structure(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"structure must be in [0, 1], got {value}")
        self._structure = float(value)

    @property
    def solve_size(self) -> int | None:
        """Longer side, in pixels, at which larger photographs are restyled; None: their own."""
        return self._solve_size

    @solve_size.setter
    def solve_size(self, value: int | None) -> None:
        if value is not None and value < MIN_SIDE:
            raise ValueError(f"solve_size must be None or at least {MIN_SIDE}, got {value}")
        self._solve_size = value

    @property
    def precision(self) -> str:
        """The arithmetic of the network: "auto", "float32", "bfloat16" or "float16"."""
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        self._precision = parse_precision(value)

    @property
    def memory(self) -> int | None:
        """What restyling may take, in bytes; None is most of what is free."""
        return self._memory

    @memory.setter
    def memory(self, value: int | None) -> None:
        if value is not None and value < 1:
            raise ValueError(f"memory must be None or at least 1 byte, got {value}")
        self._memory = value

    @property
    def cutoff(self) -> float | None:
        """The cutoff of "photoreal"; None is the default of `Photoreal`."""
        return self._cutoff

    @cutoff.setter
    def cutoff(self, value: float | None) -> None:
        # Made here, so that its coefficients are constants of a traced `forward`.
        cutoff = CUTOFF if value is None else value
        self._lowpass = LowPass(cutoff)
        self._coarse = coarser(self._lowpass)
        chroma, small, full = (LowPass(capped(f * cutoff)) for f in (_CHROMA, *_LUMA))
        self._refining = chroma, (small, full)
        self._cutoff = value

    @property
    def constraint(self) -> tuple[Part, ...]:
        """The constraints, in order; set it to anything the argument takes."""
        return self._constraint

    @constraint.setter
    def constraint(self, value: Any) -> None:
        parts = parse(value)
        if self._is_refined and any(isinstance(part, Photoreal) for part in parts):
            # It belongs to one size, and a refinement has another.
            raise ValueError(
                "refine must be False with a Photoreal object, got True: pass 'photoreal' instead"
            )
        self._constraint = parts

    @torch.no_grad()
    def set_style(
        self,
        style: Style | Sequence[Style],
        *,
        blend: Sequence[float] | None = None,
        regions: Tensor | None = None,
    ) -> Stylizer:
        """Compute the statistics of a style and keep them, as constants.

        Args:
            style: an image of any of the kinds above, a picture file, a preset (one of
                `fastfcs.presets.names`, or a .safetensors file), or a list of these. A list, like a
                batch (B, 3, H, W), holds one style per element of the content's batch, or one per
                region.
            blend: one weight per style, none negative: the styles are mixed into one whose Gram
                matrices are convex combinations of theirs.
            regions: masks (R, H, W) in [0, 1] of a single image: one style per region of it.

        Returns:
            This stylizer.

        Raises:
            ValueError, TypeError: an argument is not as described above.

        Examples:
            >>> import torch
            >>> from fastfcs import Stylizer
            >>> stylizer = Stylizer(weights="tiny")
            >>> stylizer.set_style([torch.rand(3, 20, 20), torch.rand(3, 16, 24)], blend=[2, 1])
            ... # doctest: +ELLIPSIS
            Stylizer(...
        """
        styles: Sequence[Any] = style if isinstance(style, (list, tuple)) else [style]
        if not styles:
            raise ValueError("style must be at least one image, got an empty list")
        if regions is not None and len(styles) > 1:
            raise ValueError(f"style must be a single image with regions, got {len(styles)}")
        scales = cat([self._statistics_of(image, regions) for image in styles])
        self.statistics.set(scales if blend is None else [s.blend(blend) for s in scales])
        return self

    def sibling(self, *, refine: bool = False, **settings: Any) -> Stylizer:
        """Make another stylizer of the same network, with settings and a style of its own.

        Args:
            refine: whether it has this one's refinement; without one, there is none.
            settings: arguments of `Stylizer`, but for the style and the weights.

        Returns:
            The stylizer, without a style. Both share their parameters.

        Raises:
            ValueError, TypeError: see `Stylizer`.

        Examples:
            >>> import torch
            >>> from fastfcs import Stylizer
            >>> stylizer = Stylizer(weights="tiny", refine=True)
            >>> painter = stylizer.sibling(brush=2.0).set_style(torch.rand(3, 24, 32))
            >>> painter(torch.rand(3, 24, 32)).shape
            torch.Size([3, 24, 32])
        """
        solver = self.solver
        if isinstance(solver, RefinedSolver) and not refine:
            solver = solver.solver
        other = Stylizer(weights=solver, **settings)
        other._is_shipped = self._is_shipped
        return other

    def forward(self, content: T, regions: Tensor | None = None) -> T:
        """Restyle a content, or a batch of them.

        Args:
            content: an image of any of the kinds above.
            regions: masks (R, H, W) in [0, 1] of a single content, one per style that is set: each
                style is applied within its mask (Luan et al. 2017). `fastfcs.read_regions` reads a
                pair of masks.

        Returns:
            An image of the content's type, size, dtype and range.

        Raises:
            TypeError: the content is not an image of these kinds.
            ValueError: its shape or values are not as described above, or the batch or the regions
                do not match the number of styles.
            RuntimeError: no style is set.

        Warns:
            UserWarning: memory was exhausted, so that a scale began again, in smaller tiles.
        """
        batch = images.image_to_tensor("content", content)
        size = batch.samples.shape[-2:]
        if self.solved_at(*size) == size:
            _, restyled = self._restyle_reduced(batch, regions)
            return cast(T, batch.convert_back(restyled))
        return cast(T, batch.wrap(apply_change(batch, self._models(batch, regions))))

    def restyle_alike(self, contents: Sequence[T]) -> list[T]:
        """Restyle several images at once, which a GPU does faster than one after another.

        Args:
            contents: images of any of the kinds above, one in each, without transparency; all are
                restyled at the same size, see `solved_at`.

        Returns:
            The images restyled, each of its content's type. They differ from those of `forward` by
            rounding.

        Raises:
            ValueError: the sizes differ, or an image has transparency; or see `forward`.

        Examples:
            >>> import torch
            >>> from fastfcs import Stylizer
            >>> style, *contents = torch.rand(3, 3, 24, 32)
            >>> stylizer = Stylizer(style, weights="tiny")
            >>> [result.shape for result in stylizer.restyle_alike(contents)]
            [torch.Size([3, 24, 32]), torch.Size([3, 24, 32])]
        """
        batches = [images.image_to_tensor("contents", content) for content in contents]
        wholes = [tuple(batch.samples.shape[-2:]) for batch in batches]
        sizes = {self.solved_at(*whole) for whole in wholes}
        if len(sizes) != 1 or any(batch.alpha is not None for batch in batches):
            raise ValueError("contents must be opaque and have one size, got others")
        [size] = sizes
        small = [
            batch if whole == size else batch.reduced(max(size))
            for batch, whole in zip(batches, wholes, strict=True)
        ]
        together = torch.cat([batch.pixels.float() for batch in small])
        joint = images.ImageBatch(together, None, lambda x: x)
        restyled = self._restyle(joint, self._known_statistics(), None, self.strength)
        results = [
            batch.convert_back(x)
            if whole == size
            else batch.wrap(apply_change(batch, fit_change(reduced, x)))
            # Copies, since a view of one would keep them all.
            for batch, whole, reduced, x in zip(
                batches, wholes, small, (x.clone() for x in restyled.split(1)), strict=True
            )
        ]
        return cast(list[T], results)

    def models(self, content: AnyImage, regions: Tensor | None = None) -> Tensor:
        """Restyle a photograph, and describe its change near every pixel by an affine model.

        Args:
            content, regions: see `forward`.

        Returns:
            The models, (B, 12, h, w), for `fastfcs.large.apply_change`; h and w are the size at
            which the content is restyled, see `solved_at`.

        Raises:
            TypeError, ValueError, RuntimeError: see `forward`.

        Examples:
            >>> import torch
            >>> from fastfcs import Stylizer
            >>> style, content = torch.rand(2, 3, 24, 32)
            >>> stylizer = Stylizer(style, weights="tiny", constraint="photoreal", solve_size=24)
            >>> stylizer.models(content).shape
            torch.Size([1, 12, 18, 24])
        """
        return self._models(images.image_to_tensor("content", content), regions)

    def _models(self, batch: ImageBatch, regions: Tensor | None) -> Tensor:
        return fit_change(*self._restyle_reduced(batch, regions))

    def _restyle_reduced(
        self, batch: ImageBatch, regions: Tensor | None
    ) -> tuple[ImageBatch, Tensor]:
        """The batch at the size at which it is restyled, and the result."""
        statistics = self._known_statistics()
        image, styles = batch.samples, statistics[0].styles
        if regions is None and styles not in (1, image.shape[0]):
            raise ValueError(
                f"content must be a single image or a batch of {styles}, one per style, "
                f"got a batch of {len(image)}"
            )
        check_regions("content", image, regions, styles)
        whole = image.shape[-2:]
        size = self.solved_at(*whole)
        if size == whole:
            return batch, self._restyle(batch, statistics, regions, self.strength)
        small = batch.reduced(max(size))
        masks = None if regions is None else resize(regions, size)
        return_freed()
        restyled = self._restyle(small, statistics, masks, self.strength)
        return_freed()
        return small, restyled

    def _restyle(
        self, batch: ImageBatch, statistics: Scales, regions: Tensor | None, strength: float
    ) -> Tensor:
        """Restyle a batch at its own size: (B, 3, H, W) in [0, 1], in sRGB."""
        image, alpha = batch.pixels, _weights(batch.alpha)
        filled = image if alpha is None else images.fill_hidden(image, alpha)
        device = next(self.solver.parameters()).device
        # Half types have float32 Gram matrices.
        dtype = torch.promote_types(next(self.solver.parameters()).dtype, torch.float32)
        height, width = image.shape[-2:]
        statistics = tuple(s.map(lambda h: h.to(dtype)) for s in statistics)
        photoreal = is_photoreal(self.constraint)  # all it takes from a style are its colours
        memory = self._free_memory(image)
        if photoreal:
            scales = [((height, width), statistics[-1])]
        else:
            sizes = self.sizes(height, width)
            scales = [(size, pyramid.of_scale(statistics, size)) for size in sizes]
        solver, refinement = self._parts()
        if refinement is not None:
            scales = [(size, Statistics(s.own)) for size, s in scales]
        precision = self._arithmetic()

        photo, masks = filled.to(device, dtype), None if regions is None else regions.to(device)
        between = BetweenUpdates(
            self.constraint,
            photo.float(),
            self._lowpass,
            masks,
            self._coarse,
            solver.updates_at(photo.shape[-2:]),
            chroma=statistics[-1].chroma if photoreal else None,
        )
        alpha = None if alpha is None else alpha.to(device)
        x = pyramid.restyle(
            solver,
            photo,
            scales,
            between,
            share=1 - self.structure,
            regions=masks,
            alpha=alpha,
            precision=precision,
            memory=memory,
        )
        if refinement is not None:
            return_freed()
            x = refine_photograph(
                refinement,
                x,
                photo,
                statistics,
                between,
                *self._refining,
                masks,
                alpha,
                choose(self._precision, device, photoreal=True, measured=self._is_shipped),
            )
            x = between.finish(x)
        del photo, filled, between
        return torch.lerp(image, x.to(image), strength).clamp_(0, 1)

    @torch.no_grad()
    def look(self, content: AnyImage | Sequence[AnyImage], points: int = POINTS) -> Look:
        """Find one smooth map of colours for one or several photographs (`fastfcs.look`).

        It keeps a series alike, where `forward` would restyle every picture by its own colours.

        Args:
            content: an image of any of the kinds above, or a list of them: a few that represent
                the series. All entries of a list count alike.
            points: number of points per side of the look's grid, at least 2.

        Returns:
            The look, to be called with any image, or saved for other programs. Its strength, and
            what "keep-colour" or "keep-luminance" keep, are the stylizer's.

        Raises:
            TypeError, ValueError: an argument is not as described above; the constraint is not
                "photoreal", alone or with "keep-colour" or "keep-luminance"; the styles are
                several; or the stylizer has no refinement, or one with other features than those
                that ship.
            RuntimeError: no style is set.

        Examples:
            >>> import torch
            >>> from fastfcs import Stylizer
            >>> style, *series = torch.rand(4, 3, 24, 32)
            >>> stylizer = Stylizer(style, weights="tiny", constraint="photoreal")
            >>> look = stylizer.look(series)
            >>> look(series[0]).shape
            torch.Size([3, 24, 32])
        """
        statistics = self._known_statistics()
        if statistics[0].styles != 1:
            raise ValueError(f"style must be a single one for a look, got {statistics[0].styles}")
        named = all(isinstance(part, str) for part in self.constraint)
        if not named or "photoreal" not in self.constraint:
            raise ValueError(
                "constraint must be 'photoreal', alone or with 'keep-colour' or 'keep-luminance', "
                f"for a look, got {self.constraint}"
            )
        grading = load_grading()
        if sum(statistics[0].widths[1]) != len(grading.directions):
            raise ValueError(
                "refine must be True for a look, with the features that ship, got a stylizer "
                "without such a refinement"
            )
        contents: Sequence[Any] = content if isinstance(content, (list, tuple)) else [content]
        if not contents:
            raise ValueError("content must be at least one image, got an empty list")
        colours: list[Tensor] = []
        changes: list[Tensor] = []
        appearances: list[Appearance] = []
        for each in contents:
            batch = images.image_to_tensor("content", each)
            height, width = batch.samples.shape[-2:]
            side = images.least_side((height, width), LOOK_SIZE)
            if side < max(height, width):
                batch = batch.reduced(side)
            visible = torch.ones(batch.samples.shape[-2:], dtype=torch.bool)
            if batch.alpha is not None:
                visible = batch.alpha[0, 0].cpu() > 0
            if not visible.any():
                continue
            pixels = batch.pixels
            c, x = (
                x.float().cpu().movedim(1, -1)[:, visible].reshape(-1, 3)
                for x in (pixels, self._restyle(batch, statistics, None, 1.0))
            )
            coarsest = next(self._scales(pixels, _weights(batch.alpha)))
            appearances.append(Appearance.joint([Appearance.of(coarsest)]))
            colours.append(c)
            changes.append(x - c)
        if not colours:
            raise ValueError("content must be visible somewhere, got alpha 0 everywhere")
        before, after = Appearance.joint(appearances), Appearance.of(statistics[0])
        weighed = [
            self._kept(torch.lerp(grading(c[None], before, after)[0], change, LOOK_SHARE))
            for c, change in zip(colours, changes, strict=True)
        ]
        return fit_look(colours, weighed, points).scaled(self.strength)

    def _kept(self, displacement: Tensor) -> Tensor:
        """The part of a displacement of colours (n, 3) that the constraint allows."""
        lightness = luma(displacement, 1)
        if "keep-luminance" in self.constraint:
            displacement = displacement - lightness
        if "keep-colour" in self.constraint:
            displacement = lightness.expand_as(displacement)
        return displacement

    def _known_statistics(self) -> Scales:
        statistics = self.statistics.get()
        if statistics is None:
            raise RuntimeError("the stylizer has no style yet: call set_style or load_state_dict")
        return statistics

    def solved_at(self, height: int, width: int) -> tuple[int, int]:
        """Tell the size at which a content is restyled.

        Args:
            height, width: of the content in pixels.

        Returns:
            The height and width: its own, or that of `solve_size`.

        Examples:
            >>> from fastfcs import Stylizer
            >>> Stylizer(weights="tiny", constraint="photoreal").solved_at(3000, 4000)
            (576, 768)
            >>> Stylizer(weights="tiny").solved_at(3000, 4000)
            (3000, 4000)
        """
        named = all(isinstance(part, str) for part in self.constraint)
        if self.solve_size is None or not (named and is_photoreal(self.constraint)):
            return height, width
        return images.fitted((height, width), images.least_side((height, width), self.solve_size))

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Tell the scales of a content.

        Args:
            height, width: of the content in pixels.

        Returns:
            The height and width of every scale, coarse to fine.

        Examples:
            >>> from fastfcs import Stylizer
            >>> Stylizer(weights="tiny").sizes(384, 512)
            [(96, 128), (192, 256), (384, 512)]
            >>> Stylizer(weights="tiny", constraint="photoreal").sizes(384, 512)
            [(384, 512)]
        """
        if is_photoreal(self.constraint):
            return [self.solved_at(height, width)]
        return pyramid.sizes(height, width, 1 if self.structure == 1 else self.levels)

    def tiles(self, height: int, width: int) -> int:
        """Tell the number of tiles of the last scale of a content.

        Args:
            height, width: of the content in pixels.

        Returns:
            Their number, which depends on the memory that is free if ``memory`` is None.

        Examples:
            >>> from fastfcs import Stylizer
            >>> stylizer = Stylizer(weights="tiny", memory=1_300_000_000)
            >>> stylizer.tiles(600, 800), stylizer.tiles(3000, 4000)
            (1, 20)
        """
        tile = self._tile((height, width), (height, width))
        solver, _ = self._parts()
        return 1 if tile is None else len(solver.footprint().passes((height, width), tile)[1])

    def work(self, height: int, width: int) -> int:
        """Tell how many pixels' features are computed for a content, over all updates.

        Args:
            height, width: of the content in pixels.

        Returns:
            Their number. In tiles there are more, since each is computed twice, with its halo.

        Examples:
            >>> from fastfcs import Stylizer
            >>> Stylizer(weights="tiny").work(96, 128) / (96 * 128)
            4.0
        """
        solver, refinement = self._parts()
        whole, sizes = (height, width), self.sizes(height, width)
        work = sum(solver.work(size, self._tile(whole, size)) for size in sizes)
        return work + (0 if refinement is None else photograph_work(refinement, *sizes[-1]))

    def extra_repr(self) -> str:
        return (
            f"constraint={self.constraint}, strength={self.strength}, cutoff={self.cutoff}, "
            f"levels={self.levels}, structure={self.structure}, brush={self.brush}, "
            f"precision={self.precision}, solve_size={self.solve_size}, memory={self.memory}"
        )

    def _free_memory(self, content: Tensor | None = None) -> int | None:
        """The memory for restyling, or None if there are no tiles, whatever it takes."""
        if is_photoreal(self.constraint) or torch.compiler.is_compiling():
            return None
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return None
        parameters = self.solver.parameters()
        inputs = parameters if content is None else (content, *parameters)
        if torch.is_grad_enabled() and any(each.requires_grad for each in inputs):
            return None
        device = next(self.solver.parameters()).device
        free = self._memory or free_memory(device)
        if self._memory is None and free is not None and device.type == "cpu":
            free = min(free, ENOUGH)
        return free

    def _arithmetic(self) -> Precision | None:
        """The precision of the solver that restyles every scale."""
        solver, _ = self._parts()
        return choose(
            self._precision,
            next(self.solver.parameters()).device,
            photoreal=is_photoreal(self.constraint),
            measured=self._is_shipped and not isinstance(solver, RefinedSolver),
        )

    def _tile(self, whole: tuple[int, int], size: tuple[int, int]) -> int | None:
        """The tiles of one scale of a single content."""
        solver, _ = self._parts()
        memory, precision = self._free_memory(), self._arithmetic()
        if precision is not None and size != whole:
            precision = precision.coarse()
        return pyramid.tile_side(solver, (1, 3, *whole), size, memory, precision)

    def _parts(self) -> tuple[Solver, Refinement | None]:
        """The solver of every scale, and the refinement that follows it for a photograph alone."""
        if is_photoreal(self.constraint) and isinstance(self.solver, RefinedSolver):
            return self.solver.solver, self.solver.refinement
        return self.solver, None

    @property
    def _is_refined(self) -> bool:
        """Whether the solver ends in a refinement, which alone takes Gram matrices of VGG's."""
        _, vgg_widths = self.solver.widths
        return bool(vgg_widths)

    def _statistics_of(self, style: Style, regions: Tensor | None) -> Scales:
        if isinstance(style, (str, Path)):
            preset = presets.find(style)
            if preset is not None:
                return self._preset(preset, regions)
            style = images.read(style)
        batch = images.image_to_tensor("style", style)
        image, alpha = batch.pixels, batch.alpha
        check_regions("style", image, regions)
        check_visible("style", alpha, regions)
        return tuple(self._scales(image, _weights(alpha), regions, self.style_size))

    def _scales(
        self,
        image: Tensor,
        alpha: Tensor | None,
        regions: Tensor | None = None,
        size: int | None = None,
    ) -> Iterator[Statistics]:
        """The statistics of an image (1, 3, H, W) at every scale, coarse to fine."""
        if alpha is not None:
            regions = visible_masks(regions, alpha)
            image = images.fill_hidden(image, alpha)
        if size is not None:
            image = images.fit(image, size)
        # On the CPU, torch resizes no half types.
        image = image.to(torch.promote_types(image.dtype, torch.float32))
        brush = 1.0 if is_photoreal(self.constraint) else self.brush
        for reduced in pyramid.reductions(image, brush):
            x = reduced.to(next(self.solver.parameters()))
            masks = None if regions is None else resize(regions.to(x), x.shape[-2:])
            x, masks = mirrored(x), None if masks is None else mirrored(masks)
            yield self.solver.statistics(x, masks)

    def _preset(self, path: Path, regions: Tensor | None) -> Scales:
        if regions is not None:
            raise ValueError(f"style must be an image with regions, got the preset {path.stem}")
        if self.brush != 1:
            raise ValueError(f"style must be an image with a brush, got the preset {path.stem}")
        scales = presets.read(path)
        if not self._is_refined:
            scales = tuple(Statistics(s.own) for s in scales)
        if any(s.widths != self.solver.widths for s in scales):
            raise ValueError(
                f"style must be a preset of these weights, got {path}; "
                "the presets that ship belong to universal"
            )
        device = next(self.solver.parameters()).device
        return tuple(s.map(lambda h: h.to(device)) for s in scales)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The buffers to load into may not exist yet, or may have the shape of another batch.
        start = f"{prefix}statistics."
        device = next(self.solver.parameters()).device
        named = {
            name.removeprefix(start).replace("_", "."): h  # buffers have no dots in their names
            for name, h in state_dict.items()
            if name.startswith(start)
        }
        if named:
            *_, errors = args
            try:
                scales = scales_from_named(named)
                for statistics in scales:
                    check_widths(statistics, self.solver.widths)
                empty = [s.map(lambda h: torch.empty_like(h, device=device)) for s in scales]
                self.statistics.set(empty)
            except ValueError:
                errors.append(f"{start[:-1]} must be complete and belong to this network")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _weights(alpha: Tensor | None) -> Tensor | None:
    """Alpha as the weights of pixels, or None, equal weights, if it is the same everywhere."""
    if alpha is None or alpha.is_cuda:  # looking at the values would make the host wait
        return alpha
    low, high = alpha.aminmax()
    return None if low == high else alpha


def mirrored(image: Tensor) -> Tensor:
    """Continue a small image by mirror images of itself, to at least `SMALL_STYLE` pixels per side.

    The features at an image's border are those of its padding. In a small style they are a large
    part of the Gram matrices, which the network then matches by a garish rim around the content.

    Args:
        image: (..., H, W).

    Returns:
        (..., H', W'), or ``image`` if it is large enough.

    Examples:
        >>> import torch
        >>> from fastfcs.stylizer import mirrored
        >>> mirrored(torch.rand(1, 3, 64, 100)).shape
        torch.Size([1, 3, 128, 100])
    """
    for dim in (-2, -1):
        while image.shape[dim] < SMALL_STYLE:
            image = torch.cat([image, image.flip(dim)], dim)
    return image
