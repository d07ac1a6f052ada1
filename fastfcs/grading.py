"""The difference of looks between two photographs, learned from known edits.

A style differs from a content by its look and by what it shows. Colours alone do not tell which: a
photograph may be blue because it is graded so, or because it shows the sea. `Grading` also compares
the energies of VGG's features, which know sea from sand. It was trained on pairs of halves of
photographs, one of them edited at random (`fastfcs.training.grading`): the halves show much the
same, and the edit is known.

All that it takes from a style is in its Gram matrices: the mean and the covariance of the colours,
from H_1 of the network, and the diagonals of those of VGG's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .files import save_tensors
from .losses import luma
from .statistics import Statistics

_FILE = Path(str(files("fastfcs"))) / "weights/features/grading.safetensors"

# Luma and two opponent colours, red - blue and green - magenta.
_OPPONENTS = (0.299, 0.587, 0.114), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25)
_MOMENTS = 9  # numbers that describe mean and covariance
_MONOMIALS = 13
_SHARES = 0.35, 0.6  # of the transport's luma and chroma, before the network's corrections
_LIMIT = 4.0  # standard deviations that an energy may be from the mean
_SOFTENING = 1e-4  # added to energies before their logarithm; a feature's mean square is about 1


class Appearance(NamedTuple):
    """What is known of how pictures look, B of them.

    Attributes:
        mean: of the colours, RGB in [0, 1], (B, 3).
        covariance: of the colours, (B, 3, 3).
        energies: mean squares of VGG's features, all levels one after the other, (B, C).

    Examples:
        >>> import torch
        >>> from fastfcs import Stylizer
        >>> from fastfcs.grading import Appearance
        >>> photo = torch.rand(1, 3, 32, 48)
        >>> statistics = Stylizer(photo, weights="tiny", refine=True).statistics.get()[0]
        >>> [tuple(part.shape) for part in Appearance.of(statistics)]
        [(1, 3), (1, 3, 3), (1, 704)]
    """

    mean: Tensor
    covariance: Tensor
    energies: Tensor

    @classmethod
    def of(cls, statistics: Statistics) -> Appearance:
        """Take the appearance from the Gram matrices of pictures.

        Args:
            statistics: of S pictures, with ``vgg``.

        Returns:
            Their appearances, B = S, in float32 on the CPU.
        """
        found = statistics.colours, statistics.covariance, energies_of(statistics)
        return cls(*(part.float().cpu() for part in found))

    @classmethod
    def joint(cls, several: Sequence[Appearance]) -> Appearance:
        """Find the appearance of several pictures seen as one.

        Args:
            several: appearances of pictures, which count alike.

        Returns:
            The appearance of all, B = 1.
        """
        mean, covariance, energies = map(torch.cat, zip(*several, strict=True))
        centre = mean.mean(0, keepdim=True)
        apart = mean - centre
        spread = covariance.mean(0) + apart.mT @ apart / len(mean)
        return cls(centre, spread[None], energies.mean(0, keepdim=True))


def energies_of(statistics: Statistics) -> Tensor:
    """Compute the mean squares of VGG's features.

    Args:
        statistics: of S pictures, with ``vgg``.

    Returns:
        (S, C), all levels one after the other.

    Examples:
        >>> import torch
        >>> from fastfcs.grading import energies_of
        >>> from fastfcs.statistics import Statistics
        >>> energies_of(Statistics((), (2 * torch.eye(3)[None], torch.eye(2)[None])))
        tensor([[2., 2., 2., 1., 1.]])
    """
    return torch.cat([h.diagonal(dim1=1, dim2=2) for h in statistics.vgg], 1)


class Grading(nn.Module):
    """A network that guesses how an edit moved colours, from the appearances before and after.

    It moves a colour c by

        a Y(T c - c) + b (T c - c - Y(T c - c)) + P(c)

    where Y is the luma. T is the affine map that takes the mean and the covariance before to those
    after with the least displacement (Monge's problem for normal distributions; Pitié and Kokaram
    2007). a is 0.35 and b is 0.6, both corrected by two hidden layers, from which P comes as well,
    a polynomial in luma and two opponent colours. Equal appearances give no corrections.

    Args:
        channels: C, the number of energies.
        components: principal components of the energies that the hidden layers see.
        width: of the hidden layers.

    Examples:
        >>> import torch
        >>> from fastfcs.grading import Appearance, Grading
        >>> grading = Grading(channels=8, components=4, width=16)
        >>> covariance = 0.1 * torch.eye(3).expand(2, 3, 3)
        >>> before = Appearance(torch.rand(2, 3), covariance, torch.ones(2, 8))
        >>> bool(grading(torch.rand(2, 100, 3), before, before).abs().max() < 1e-3)
        True
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, channels: int, components: int = 32, width: int = 384) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(2, channels))
        self.register_buffer("directions", torch.zeros(channels, components))
        last = nn.Linear(width, 3 * _MONOMIALS + 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(3 * _MOMENTS + 2 * components, width),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(0.3),
            last,
        )

    @torch.no_grad()
    def fit_components(self, energies: Tensor) -> None:
        """Choose the principal components of the energies' logarithms.

        Args:
            energies: (n, C), with n above the number of components.
        """
        logarithms = (energies + _SOFTENING).log()
        deviation, mean = torch.std_mean(logarithms, 0)
        self.centre.copy_(torch.stack([mean, deviation + 1e-3]))
        _, size, directions = torch.linalg.svd(self._standardised(energies), full_matrices=False)
        count = self.directions.shape[1]
        scale = size[:count] / len(energies) ** 0.5
        self.directions.copy_((directions[:count] / scale[:, None]).mT)

    def forward(self, colours: Tensor, before: Appearance, after: Appearance) -> Tensor:
        """Guess how colours move.

        Args:
            colours: (B, n, 3), RGB in [0, 1].
            before: the appearances of the pictures they belong to.
            after: those of edited pictures that show something similar.

        Returns:
            The displacements, (B, n, 3).
        """
        # Equal appearances leave colours as they are.
        found = self._compared(before, after) - self._compared(before, before)
        polynomial, correction = found.tensor_split([3 * _MONOMIALS], 1)
        moved = (colours - before.mean[:, None]) @ _transport(before.covariance, after.covariance)
        transport = moved + after.mean[:, None] - colours
        lightness = luma(transport, -1)
        of_luma, of_chroma = (correction + correction.new_tensor(_SHARES))[:, None].split(1, 2)
        of_colours = _monomials(colours) @ (0.1 * polynomial).unflatten(1, (_MONOMIALS, 3))
        moves: Tensor = of_luma * lightness + of_chroma * (transport - lightness) + of_colours
        return moves

    def _compared(self, before: Appearance, after: Appearance) -> Tensor:
        moments = _moments(before), _moments(after)
        energies = (self._standardised(each.energies) @ self.directions for each in (before, after))
        found: Tensor = self.layers(torch.cat([*moments, moments[1] - moments[0], *energies], 1))
        return found

    def _standardised(self, energies: Tensor) -> Tensor:
        mean, deviation = self.centre
        standardised: Tensor = ((energies + _SOFTENING).log() - mean) / deviation
        return standardised.clamp(-_LIMIT, _LIMIT)


def save_grading(grading: Grading, path: str | Path) -> None:
    """Write the network to a safetensors file, in half precision, atomically.

    Args:
        grading: the network.
        path: the file.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.grading import Grading, save_grading
        >>> import tempfile
        >>> save_grading(Grading(channels=8), Path(tempfile.mkdtemp()) / "grading.safetensors")
    """
    tensors = {name: tensor.half() for name, tensor in grading.state_dict().items()}
    save_tensors(tensors, path, {"format": "fastfcs grading", "licence": "MIT"})


def load_grading(path: str | Path = _FILE) -> Grading:
    """Load the network, in eval mode and float32 on the CPU.

    Args:
        path: a file of `save_grading`; by default the one that ships.

    Returns:
        The network.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold a grading.

    Examples:
        >>> from fastfcs.grading import load_grading
        >>> load_grading().directions.shape
        torch.Size([704, 32])
    """
    from safetensors.torch import load_file

    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    if "directions" not in tensors:
        raise ValueError(f"path must be a file of a grading, got {path}")
    channels, components = tensors["directions"].shape
    grading = Grading(channels, components, len(tensors["layers.0.bias"]))
    grading.load_state_dict(tensors)
    return grading.requires_grad_(False).eval()


def _moments(appearance: Appearance) -> Tensor:
    """Mean, logarithmic deviation and correlation of luma and opponent colours, (B, 9)."""
    opponents = appearance.mean.new_tensor(_OPPONENTS)
    mean = appearance.mean @ opponents.mT * appearance.mean.new_tensor([4.0, 10.0, 10.0])
    covariance = opponents @ appearance.covariance @ opponents.mT
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-7).sqrt()
    correlation = covariance / (deviation[:, :, None] * deviation[:, None])
    pairs = [correlation[:, i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    return torch.cat([mean, (deviation + 1e-3).log(), torch.stack(pairs, 1)], 1)


def _monomials(colours: Tensor) -> Tensor:
    """Of luma and opponent colours, up to degree 2, and of degree 3 with luma; (B, n, 13)."""
    y, u, v = (colours @ colours.new_tensor(_OPPONENTS).mT).split(1, 2)
    second = y * y, y * u, y * v, u * u, u * v, v * v
    third = y * y * y, y * y * u, y * y * v
    return torch.cat([torch.ones_like(y), y, u, v, *second, *third], 2)


def _transport(before: Tensor, after: Tensor) -> Tensor:
    """The symmetric T with T before T = after (Pitié and Kokaram 2007, equation 12), (B, 3, 3)."""
    noise = 1e-5 * torch.eye(3, dtype=before.dtype, device=before.device)  # of 8-bit samples
    root = _power(before + noise, 0.5)
    inverse = _power(before + noise, -0.5)
    middle = _power(root @ (after + noise) @ root, 0.5)
    return inverse @ middle @ inverse


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = vectors * (values.clamp_min(1e-12) ** exponent)[:, None] @ vectors.mT
    return power
