"""`Stylizer`: network, style and constraint in one module, for tensors, arrays and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from . import images, presets
from .constraints import SoftBox
from .constraints.named import Part, between_updates, parse
from .filters import LowPass
from .network import MIN_SIDE, Statistics, UnrolledSolver, check_range
from .refinement import RefinedSolver, load_network
from .regions import resize

AnyImage: TypeAlias = Tensor | Image.Image | NDArray[Any]
Style: TypeAlias = AnyImage | str | Path
T = TypeVar("T", Tensor, Image.Image, NDArray[Any])


class Stylizer(nn.Module):
    """Restyles images after a reference picture.

    Images are of any of these kinds, and the result is of the content's kind, size, dtype and
    range:

    - tensors (3, H, W) or (B, 3, H, W), floating, in [0, 1], on any device;
    - arrays (H, W, 3): uint8, uint16, or floating in [0, 1];
    - PIL images of 8 bits a channel; grey and palette become RGB, transparency and profile are
      kept, and what EXIF says is turned comes out upright.

    H and W are at least 16. The network works on the module's own device and in its own dtype; a
    picture goes there and its result comes back. Pixels are taken in whatever encoding they have
    (sRGB, in training). X before a constraint, and the result, are clipped to [0, 1]; "photoreal"
    brings X nearer to the content (`fastfcs.constraints.Near`) and bends (`SoftBox`) instead, and
    bends the result if it comes last; its X starts as the content moved to the style's mean colour.

    On CUDA the host never waits for a tensor, so a call can be captured into a CUDA graph; that is
    why the values of CUDA tensors, unlike all others, are not checked.

    Torch's grad mode is honoured, and weights read from a file are frozen: a graph is recorded only
    if the content requires gradients (or after ``requires_grad_()``), and then the result is
    differentiable in it, the Laplacian of "photoreal" being a constant.

    Args:
        style: what `set_style` takes; None to set it, or load it by ``load_state_dict``, later.
        weights: "universal", "small", "tiny", a safetensors file, or an `UnrolledSolver` or
            `RefinedSolver`, used as it is.
        refine: six further updates, which see more (`fastfcs.refinement`): paintings come nearer
            to their style, ten times slower on a CPU. Not with "photoreal".
        constraint: what is enforced after every update of the network: None; "photoreal", the
            projection onto the smooth signals of the content's matting Laplacian
            (`fastfcs.constraints.Photoreal`); "keep-colour", only the luminance is restyled;
            "keep-luminance", only the colours are; any callable X -> X on (B, 3, H, W); or a list
            of these, applied in turn.
        strength: in [0, 1]; 0 returns the content exactly, 1 the full result.
        cutoff: of "photoreal", the dial between style (larger) and structure; None is `Photoreal`'s
            own default.
        style_size: longer side in pixels to which larger style pictures are reduced, for their
            statistics take memory as contents do; None leaves them as they are.
        brush: scale of the style's strokes, in [0.25, 4]: the picture is resized by it.

    Raises:
        ValueError, TypeError: an argument that is none of these; one sentence says which.
        FileNotFoundError: no such weights.

    Source: Puy and Pérez, "A Flexible Convolutional Solver for Fast Style Transfers" (CVPR 2019).
    """

    def __init__(
        self,
        style: Style | Sequence[Style] | None = None,
        *,
        weights: str | Path | UnrolledSolver | RefinedSolver = "universal",
        refine: bool = False,
        constraint: Part | Sequence[Part] | None = None,
        strength: float = 1.0,
        cutoff: float | None = None,
        style_size: int | None = 768,
        brush: float = 1.0,
    ) -> None:
        super().__init__()
        parts = parse(constraint, cutoff)
        if cutoff is not None:
            LowPass(cutoff)  # refuses it now, not at the first content
        if style_size is not None and style_size < MIN_SIDE:
            raise ValueError(f"style_size must be None or at least {MIN_SIDE}, not {style_size}")
        if not 0.25 <= brush <= 4:
            raise ValueError(f"brush must be in [0.25, 4], not {brush}")
        self.strength, self.brush = strength, brush
        self.cutoff = cutoff
        self.style_size = style_size
        self.solver: UnrolledSolver | RefinedSolver
        if isinstance(weights, (UnrolledSolver, RefinedSolver)):
            if refine:
                raise ValueError("refine belongs to weights by name or file, not to a network")
            self.solver = weights
        else:
            self.solver = load_network(weights, refine).requires_grad_(False)
        self.constraint = parts  # refuses what does not go with the solver
        self.statistics = _Statistics()
        if style is not None:
            self.set_style(style)

    @property
    def strength(self) -> float:
        """How far from the content, 0, to the result, 1."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"strength must be in [0, 1], not {value}")
        self._strength = float(value)

    @property
    def constraint(self) -> tuple[Part, ...]:
        """What is enforced after every update, in turn; set it to anything the argument takes."""
        return self._constraint

    @constraint.setter
    def constraint(self, given: Any) -> None:
        parts = parse(given)
        if "photoreal" in parts and isinstance(self.solver, RefinedSolver):
            # Each update goes some of the way back to the content: of twelve, nothing would remain.
            raise ValueError("refine is for paintings, not for constraint='photoreal'")
        self._constraint = parts

    @torch.no_grad()
    def set_style(
        self,
        style: Style | Sequence[Style],
        *,
        blend: Sequence[float] | None = None,
        regions: Tensor | None = None,
    ) -> Stylizer:
        """Compute and keep the statistics of a style, constants from then on; returns self.

        Args:
            style: an image of any of the kinds above, a picture file, a preset (its name, one of
                `fastfcs.presets.names`, or a .safetensors file), or a list of these. A list, and a
                batch (B, 3, H, W), holds one style for each element of the content's batch, or one
                for each region.
            blend: a weight for each style of the list, none negative: they become one style, whose
                H^s is the convex combination of theirs.
            regions: masks (R, H, W) in [0, 1] of a single image: one style for each region of it.

        Raises:
            ValueError, TypeError: an argument that is none of these; one sentence says which.
        """
        styles: Sequence[Any] = style if isinstance(style, (list, tuple)) else [style]
        if not styles:
            raise ValueError("style must be at least one image, not an empty list")
        if regions is not None and len(styles) > 1:
            raise ValueError(f"regions belong to one style image, not to {len(styles)}")
        found = [self._statistics_of(one, regions) for one in styles]
        joined = {key: torch.cat([each[key] for each in found]) for key in found[0]}
        if blend is not None:
            shares = _shares(blend, len(joined["0.0"]))
            joined = {
                key: torch.tensordot(shares.to(h), h, dims=1)[None] for key, h in joined.items()
            }
        self.statistics.set(joined)
        return self

    def forward(self, content: T, regions: Tensor | None = None) -> T:
        """The content restyled: same kind, size, dtype and range.

        Args:
            content: an image of any of the kinds above.
            regions: masks (R, H, W) in [0, 1] of a single content, one for each style that is set:
                each style goes where its mask is (Luan et al. 2017). `fastfcs.read_regions` reads a
                pair of them.

        Raises:
            TypeError: an image of no kind handled.
            ValueError: its shape or numbers are not as described above, or its batch, or the
                regions, are not as many as the styles.
            RuntimeError: no style was set.
        """
        statistics = self.statistics.get()
        if not statistics:
            raise RuntimeError("the stylizer has no style yet: call set_style or load_state_dict")
        image, give_back = _as_tensor("content", content)
        styles = len(next(iter(statistics.values())))
        if regions is None and styles not in (1, len(image)):
            raise ValueError(f"content has a batch of {len(image)}, but {styles} styles are set")
        x = self._ours(image)
        dtype = torch.promote_types(x.dtype, torch.float32)  # as the Gram matrices of half types
        statistics = {key: h.to(dtype) for key, h in statistics.items()}
        photo = image.to(x.device, torch.float32)
        constraint = None
        if self.constraint:
            by_region = regions is not None
            constraint = between_updates(self.constraint, photo, self.cutoff, by_region)
        masks = None if regions is None else regions.to(x.device)
        start = {"shifted": True} if "photoreal" in self.constraint else {}
        result = self.solver(x, statistics, constraint, masks, **start)
        if self.constraint[-1:] == ("photoreal",):  # not what another constraint gave last
            result = SoftBox(photo)(result)
        result = torch.lerp(image, result.to(image), self.strength).clamp(0, 1)
        return give_back(result)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return (
            f"constraint={self.constraint}, strength={self.strength}, cutoff={self.cutoff}, "
            f"brush={self.brush}"
        )

    def _ours(self, image: Tensor) -> Tensor:
        return image.to(next(self.solver.parameters()))

    def _statistics_of(self, style: Style, regions: Tensor | None) -> Statistics:
        if isinstance(style, (str, Path)):
            preset = presets.find(style)
            if preset is not None:
                if regions is not None:
                    raise ValueError(f"regions belong to a style image, not to the preset {style}")
                if self.brush != 1:
                    raise ValueError(f"brush scales a style image, not the preset {style}")
                return self._preset(preset)
            style = images.read(style).pixels
        image, _ = _as_tensor("style", style)
        if regions is not None and regions.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"regions must be masks (R, H, W) of the style {tuple(image.shape)}, "
                f"not {tuple(regions.shape)}"
            )
        if self.style_size is not None:
            image = images.fit(image, self.style_size)
        if self.brush != 1:
            size = [max(MIN_SIDE, round(side * self.brush)) for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        x = self._ours(image)
        masks = None if regions is None else resize(regions.to(x), x.shape[-2:])
        return self.solver.statistics(x, masks)

    def _preset(self, path: Path) -> Statistics:
        found = presets.read(path)
        if not isinstance(self.solver, RefinedSolver):
            found = {key: h for key, h in found.items() if not key.startswith("vgg.")}
        if not self.solver.fits(found):
            raise ValueError(f"style: {path} is not a preset of these weights")
        device = next(self.solver.parameters()).device
        return {key: h.to(device) for key, h in found.items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # There may be no statistics yet, or those of another batch, to load these into.
        start = f"{prefix}statistics."
        device = next(self.solver.parameters()).device
        kept = {
            k.removeprefix(start).replace("_", "."): v
            for k, v in state_dict.items()
            if k.startswith(start)
        }
        if self.solver.fits(kept):
            self.statistics.set({k: torch.empty_like(v, device=device) for k, v in kept.items()})
        elif kept:
            *_, errors = args
            errors.append(f"{start[:-1]} are of another network, or not whole")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _shares(blend: Sequence[float], styles: int) -> Tensor:
    """Weights divided by their sum, (styles,)."""
    weights = torch.tensor(list(blend), dtype=torch.float64)
    if len(weights) != styles or not (weights >= 0).all() or not 0 < weights.sum() < torch.inf:
        raise ValueError(
            f"blend must be {styles} weights, one a style, none negative and not all 0, "
            f"not {list(blend)}"
        )
    return weights / weights.sum()


class _Statistics(nn.Module):
    """H^s as buffers "t_l", which follow the module to another device but keep their dtype.

    Half types would spoil them: their entries span the squares of the features' range.
    """

    def set(self, statistics: Statistics) -> None:
        self._buffers.clear()
        for key, h in statistics.items():
            self.register_buffer(key.replace(".", "_"), h)

    def get(self) -> Statistics:
        return {key.replace("_", "."): h for key, h in self.named_buffers()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Statistics:
        return super()._apply(lambda h: h.to(fn(h.new_empty(0)).device), recurse)


def _as_tensor(name: str, given: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """An image of any kind as (B, 3, H, W), and how to turn such a tensor back into that kind."""
    back: Callable[[Tensor], Any]
    if isinstance(given, Tensor):
        image, back = _from_tensor(name, given)
    elif isinstance(given, np.ndarray):
        image, back = _from_array(name, given)
    elif isinstance(given, Image.Image):
        image, back = _from_pil(given)
    else:
        raise TypeError(f"{name} must be a tensor, array or PIL image, not {type(given).__name__}")
    height, width = image.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{name} must be at least {MIN_SIDE} pixels a side, not {width} x {height}"
        )
    if not image.is_cuda:  # where looking would make the host wait, and no CUDA graph may
        check_range(name, image)
    return image, back


def _from_tensor(name: str, given: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    if not given.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor in [0, 1], not {given.dtype}")
    if given.dim() not in (3, 4) or given.shape[-3] != 3 or given.numel() == 0:
        raise ValueError(
            f"{name} must be a tensor (3, H, W) or (B, 3, H, W), not {tuple(given.shape)}"
        )
    return (given[None], lambda x: x[0]) if given.dim() == 3 else (given, lambda x: x)


def _from_array(name: str, given: NDArray[Any]) -> tuple[Tensor, Callable[[Tensor], NDArray[Any]]]:
    if given.ndim != 3 or given.shape[2] != 3 or given.size == 0:
        raise ValueError(f"{name} must be an array (H, W, 3), not {given.shape}")
    if given.dtype in (np.uint8, np.uint16):
        depth = 8 * given.itemsize
        return images.from_samples(given)[None], lambda x: images.to_samples(x[0], depth)
    if given.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name} must be an array of uint8, uint16 or floats, not {given.dtype}")
    image = torch.from_numpy(np.array(given.transpose(2, 0, 1), order="C"))[None]
    return image, lambda x: x[0].detach().permute(1, 2, 0).contiguous().cpu().numpy()


def _from_pil(given: Image.Image) -> tuple[Tensor, Callable[[Tensor], Image.Image]]:
    given = ImageOps.exif_transpose(given)
    samples = images.samples_of(given)

    def back(x: Tensor) -> Image.Image:
        result = Image.fromarray(np.concatenate([images.to_samples(x[0], 8), samples[..., 3:]], 2))
        result.info = {k: v for k, v in given.info.items() if k in ("icc_profile", "exif", "dpi")}
        return result

    return images.from_samples(samples[..., :3])[None], back
