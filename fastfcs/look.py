"""A look: one smooth map of colours, for a picture, for many, and for other programs.

A photograph's change is local, but most of it is a function of the colour alone. `Stylizer.look`
finds that function u: a colour c becomes c + u(c). Where a picture has a colour c, u follows

    0.8 g(c) + 0.2 (X - c)

g is what `fastfcs.grading` takes for the difference of looks between all the pictures together and
the style, and X the result of the network. u is smooth, and fades to 0, the identity, where the
pictures have no colours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from . import images
from .delta_e import delta_e
from .files import atomic
from .images import Picture

T = TypeVar("T", Tensor, Image.Image, NDArray[Any], Picture)

POINTS = 33
"""The default number of points per side of a look's grid."""

_SMOOTHNESS, _IDENTITY = 1.0, 0.01  # weights beside that of a picture's mean colour density
_ITERATIONS = 200
_HALD = 8  # level of the files: 64 points per side, 512 x 512 pixels
_BAND = 1 << 19  # pixels that are mapped at a time
_THUMBNAIL = 64  # longer side, in pixels, at which pictures of a series are compared
_ALIKE = 0.03  # distance of means and deviations below which two pictures need one look


class Look:
    """A map of colours on a grid, interpolated trilinearly between its points.

    Args:
        grid: (3, N, N, N), clipped to [0, 1]; grid[:, b, g, r] are R, G and B of the result for
            the colour (r, g, b) / (N - 1), in sRGB. N is at least 2.

    Raises:
        ValueError: the grid has another shape, or is not finite.

    Examples:
        >>> import torch
        >>> from fastfcs.look import Look
        >>> warmer = Look(Look.identity(2).grid * torch.tensor([1.0, 0.9, 0.8]).view(3, 1, 1, 1))
        >>> warmer(torch.ones(3, 16, 16))[:, 0, 0]
        tensor([1.0000, 0.9000, 0.8000])
    """

    def __init__(self, grid: Tensor) -> None:
        n = grid.shape[-1] if grid.dim() else 0
        if grid.shape != (3, n, n, n) or n < 2:
            raise ValueError(
                f"grid must have shape (3, N, N, N) with N at least 2, got {tuple(grid.shape)}"
            )
        if not grid.isfinite().all():
            raise ValueError("grid must be finite, got at least one NaN or infinity")
        self.grid = grid.detach().float().cpu().clamp(0, 1)

    @classmethod
    def identity(cls, points: int = POINTS) -> Look:
        """Make the look that changes nothing.

        Args:
            points: N, at least 2.

        Returns:
            The look.
        """
        axis = torch.linspace(0, 1, points)
        return cls(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flip(0))

    def scaled(self, strength: float) -> Look:
        """Change the strength.

        Args:
            strength: in [0, 1]; 0 is the identity, 1 this look.

        Returns:
            The look in between.

        Raises:
            ValueError: the strength is out of its range.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be in [0, 1], got {strength}")
        return Look(torch.lerp(self.identity(self.points).grid, self.grid, strength))

    @property
    def points(self) -> int:
        """N, the number of points per side of the grid."""
        return self.grid.shape[-1]

    def resampled(self, points: int) -> Look:
        """Interpolate the look on another grid.

        Args:
            points: N, at least 2.

        Returns:
            The look on that grid.
        """
        if points == self.points:
            return self
        size = (points,) * 3
        grid = F.interpolate(self.grid[None], size, mode="trilinear", align_corners=True)
        return Look(grid[0])

    def encoded(self, icc: bytes | None) -> Look:
        """Convert the look, which maps sRGB, to the encoding of a profile.

        Args:
            icc: an RGB profile; None stands for sRGB.

        Returns:
            The look that maps colours of that encoding as ``self`` maps pictures with the profile.
        """
        if icc is None:
            return self
        colours = self.identity(self.points).grid
        whole = Picture(colours.reshape(3, self.points, -1), icc=icc, depth=16)
        return Look(self(whole).pixels.reshape(colours.shape))

    def map(self, colours: Tensor) -> Tensor:
        """Map colours.

        Args:
            colours: (..., 3, H, W), floating, in [0, 1], in sRGB, on any device.

        Returns:
            A tensor of the same shape and dtype. Differentiable.
        """
        places = (2 * colours.float() - 1).movedim(-3, -1)
        grid = self.grid.to(places).expand(1, -1, -1, -1, -1)
        places = places.reshape(1, 1, -1, colours.shape[-1], 3)
        mapped = F.grid_sample(grid, places, align_corners=True, padding_mode="border")
        batch = mapped.view(3, *colours.shape[:-3], *colours.shape[-2:])
        return batch.movedim(0, -3).to(colours.dtype)

    def __call__(self, image: T) -> T:
        """Apply the look to an image of any size, a band of rows at a time.

        Args:
            image: an image of any of the kinds that `Stylizer` takes. One with a colour profile is
                mapped in sRGB and returns to its profile. Hidden pixels stay as they are.

        Returns:
            An image of the same type, size, dtype and range.

        Raises:
            TypeError, ValueError: the image is of no such kind.
        """
        batch = images.image_to_tensor("image", image, smallest=1)
        if isinstance(image, Tensor):
            return cast(T, batch.convert_back(self.map(batch.samples)))
        result = torch.empty_like(batch.samples)  # in the same memory format
        rows = max(1, _BAND // batch.samples.shape[-1])
        for top in range(0, batch.samples.shape[-2], rows):
            band = batch.rows(top, rows)
            mapped = band.encode(self.map(band.pixels))
            if not result.is_floating_point():
                mapped = (mapped * torch.iinfo(result.dtype).max).round_()
            result.narrow(-2, top, mapped.shape[-2]).copy_(mapped)
        return cast(T, batch.wrap(result))

    def save(self, path: str | Path) -> None:
        """Write the look as a file for other programs, atomically.

        Args:
            path: ends in .cube (Adobe's Cube LUT specification 1.0), or in .png: a HALD image of
                level 8, 64 points per side, with 16 bits per channel.

        Raises:
            ValueError: the path has another suffix.
            OSError: the file cannot be written.

        Examples:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from fastfcs.look import Look
            >>> path = Path(tempfile.mkdtemp()) / "identity.cube"
            >>> Look.identity(17).save(path)
            >>> path.read_text().splitlines()[:4]
            ['TITLE "identity"', 'LUT_3D_SIZE 17', '0.000000 0.000000 0.000000', ...
            >>> Look.read(path).points
            17
        """
        kind = suffix_of(path)
        if kind == ".png":
            hald = self.resampled(_HALD**2).grid.reshape(3, _HALD**3, _HALD**3)
            images.write(Picture(hald, depth=16), path)
            return
        title = Path(path).stem.replace('"', "'")
        rows = self.grid.flatten(1).T.tolist()
        lines = [f'TITLE "{title}"', f"LUT_3D_SIZE {self.points}"]
        lines += [" ".join(f"{value:.6f}" for value in row) for row in rows]
        with atomic(path) as partial:
            partial.write_text("\n".join([*lines, ""]), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> Look:
        """Read a look, also one of another program.

        Args:
            path: a 3D LUT in a .cube file over the domain [0, 1], or a HALD image (.png, .tif).

        Returns:
            The look.

        Raises:
            ValueError: the file is neither, or is damaged.
            OSError: the file cannot be read.
        """
        if Path(path).suffix.lower() == ".cube":
            return cls(_read_cube(Path(path)))
        picture = images.read(path)
        width, height = picture.size
        level = round(width ** (1 / 3))
        if width != height or level**3 != width or level < 2:
            raise ValueError(
                f"{path} must be a .cube file or a HALD image, whose sides are the cube of a whole "
                f"number, got {width} x {height} pixels"
            )
        return cls(picture.srgb.reshape(3, *(level**2,) * 3))


def suffix_of(path: str | Path) -> str:
    """Check the suffix of a file for a look.

    Args:
        path: the file; it need not exist.

    Returns:
        ".cube" or ".png".

    Raises:
        ValueError: it ends otherwise.

    Examples:
        >>> from fastfcs.look import suffix_of
        >>> suffix_of("warm.CUBE")
        '.cube'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".cube", ".png"):
        raise ValueError(f"{path} must end in .cube, or in .png for a HALD image")
    return suffix


def _read_cube(path: Path) -> Tensor:
    points, rows = 0, []
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # titles may be in any encoding
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words or words[0] == "TITLE":
            continue
        try:
            if words[0] == "LUT_3D_SIZE":
                points = int(words[1])
            elif words[0] in ("DOMAIN_MIN", "DOMAIN_MAX"):
                bound = float(words[0] == "DOMAIN_MAX")
                if [float(word) for word in words[1:]] != [bound] * 3:
                    raise ValueError(f"{path} must have the domain [0, 1], got {line.strip()!r}")
            elif words[0] == "LUT_3D_INPUT_RANGE":
                if [float(word) for word in words[1:]] != [0, 1]:
                    raise ValueError(f"{path} must have the domain [0, 1], got {line.strip()!r}")
            elif re.match(r"[-+.\d]", words[0]):
                red, green, blue = map(float, words)
                rows.append((red, green, blue))
            else:
                raise ValueError(f"{path} must be a 3D LUT, got {words[0]!r} in line {number}")
        except (IndexError, ValueError) as error:
            if str(error).startswith(str(path)):
                raise
            raise ValueError(f"{path} is damaged in line {number}: {line.strip()!r}") from error
    if points < 2 or len(rows) != points**3:
        raise ValueError(
            f"{path} must hold LUT_3D_SIZE N, N at least 2, and N^3 colours, "
            f"got N = {points} and {len(rows)} colours"
        )
    table = torch.tensor(rows)
    if not table.isfinite().all():
        raise ValueError(f"{path} must hold finite numbers, got at least one NaN or infinity")
    return table.T.reshape(3, points, points, points)


def representatives(pictures: Sequence[Picture], count: int) -> list[int]:
    """Choose a few pictures that stand for a series: the most typical one, and those that differ.

    Args:
        pictures: the series, not empty.
        count: the largest number to choose, at least 1.

    Returns:
        Indices: the picture nearest to the mean of the series, and then always the one farthest
        from those chosen, by the means and deviations of colours; fewer if the others are alike.

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.look import representatives
        >>> series = [Picture(torch.full((3, 16, 24), grey)) for grey in (0.1, 0.5, 0.5, 0.7)]
        >>> representatives(series, 3)
        [1, 0, 3]
    """
    moments = []
    for picture in pictures:
        colours = images.fit_picture(picture, _THUMBNAIL).srgb.flatten(1)
        moments.append(torch.cat([colours.mean(1), colours.std(1)]))
    points = torch.stack(moments)
    chosen = [int((points - points.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        distances = (points[:, None] - points[chosen]).norm(dim=2).amin(1)
        if distances.max() < _ALIKE:
            break
        chosen.append(int(distances.argmax()))
    return chosen


def difference(first: Picture, second: Picture) -> Tensor:
    """Compare two pictures, pixel by pixel.

    Args:
        first: a picture.
        second: another one of the same size.

    Returns:
        The differences of the visible pixels, (n,), by CIEDE2000 (`fastfcs.delta_e`).

    Examples:
        >>> import torch
        >>> from fastfcs.images import Picture
        >>> from fastfcs.look import difference
        >>> picture = Picture(torch.rand(3, 16, 24))
        >>> difference(picture, picture).max().item()
        0.0
    """
    found = delta_e(*(each.srgb.movedim(0, -1) for each in (first, second)))
    return found.flatten() if first.alpha is None else found[first.alpha > 0]


def fit_look(
    colours: Sequence[Tensor], displacements: Sequence[Tensor], points: int = POINTS
) -> Look:
    """Find the look u of some pictures together.

    Args:
        colours: c of every picture, (n, 3) in [0, 1]; all pictures count alike.
        displacements: what u(c) should be, of the same shapes.
        points: N of the look's grid, at least 2.

    Returns:
        The look: smooth, and increasing in each channel along that channel.

    Examples:
        >>> import torch
        >>> from fastfcs.look import fit_look
        >>> colours = torch.rand(1000, 3)
        >>> look = fit_look([colours], [torch.zeros_like(colours)], points=9)
        >>> bool((look.grid - look.identity(9).grid).abs().max() < 1e-3)
        True
    """
    weights = torch.cat([c.new_full((len(c),), 1 / len(c)) for c in colours]) / len(colours)
    c, displacement = torch.cat(list(colours)).double(), torch.cat(list(displacements)).double()
    identity = Look.identity().grid
    field = _smooth_field(c, displacement, weights.double(), POINTS)
    grid = identity + field.to(identity)
    for channel in range(3):  # along its own channel a result increases
        grid[channel] = _increasing(grid[channel], 2 - channel)
    return Look(grid).resampled(points)


def _smooth_field(colours: Tensor, values: Tensor, weights: Tensor, points: int) -> Tensor:
    """The field u on the grid, (3, N, N, N), that minimises

        sum_i d_i |u_i - v_i|^2 + smoothness |Laplacian of u|^2 + identity |u|^2

    where d is the density of the colours, 1 on average, and v the mean of their values, both by
    trilinear shares.
    """
    place = colours.clamp(0, 1) * (points - 1)
    corner = place.floor().clamp(max=points - 2)
    part, corner = place - corner, corner.long()
    density = colours.new_zeros(points**3)
    total = colours.new_zeros(points**3, 3)
    for index in range(8):
        side = torch.tensor([index & 1, index >> 1 & 1, index >> 2 & 1], device=colours.device)
        share = weights * torch.where(side > 0, part, 1 - part).prod(1)
        r, g, b = (corner + side).unbind(1)
        at = (b * points + g) * points + r
        density.index_add_(0, at, share)
        total.index_add_(0, at, share[:, None] * values)
    density = density.view(1, points, points, points) * points**3
    target = total.T.reshape(3, points, points, points) * points**3

    def normal(u: Tensor) -> Tensor:
        return density * u + _SMOOTHNESS * _laplacian(_laplacian(u)) + _IDENTITY * u

    # Conjugate gradient, preconditioned by the diagonal.
    scale = 1 / (density + 42 * _SMOOTHNESS + _IDENTITY)  # 6^2 + 6, the diagonal of both Laplacians
    u = torch.zeros_like(target)
    residual = target
    direction = preconditioned = scale * residual
    power = (residual * preconditioned).sum()
    for _ in range(_ITERATIONS):
        image = normal(direction)
        step = power / (direction * image).sum().clamp_min(1e-300)
        u = u + step * direction
        residual = residual - step * image
        preconditioned = scale * residual
        power, last = (residual * preconditioned).sum(), power
        direction = preconditioned + power / last.clamp_min(1e-300) * direction
    return u


def _laplacian(u: Tensor) -> Tensor:
    """The sum of second differences along the last three dimensions; slopes at the border are 0."""
    total = torch.zeros_like(u)
    for dim in (-1, -2, -3):
        slope = u.diff(dim=dim)
        n = slope.shape[dim]
        total.narrow(dim, 0, n).add_(slope)
        total.narrow(dim, 1, n).sub_(slope)
    return total


def _increasing(values: Tensor, dim: int) -> Tensor:
    """The mean of the least increasing values above and the largest below; the same if they are."""
    above = values.cummax(dim).values
    below = values.flip(dim).cummin(dim).values.flip(dim)
    return (above + below) / 2
