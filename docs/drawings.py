"""The two pictures of our own that presets are tuned on: a pencil drawing and a mosaic.

python docs/drawings.py FOLDER     writes pencil.png and mosaic.png, from photos of scikit-image
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, spatial
from skimage import color, data, transform

HEIGHT, WIDTH = 512, 768
LAYERS = ((38, 0.22), (62, 0.4), (-28, 0.55), (8, 0.7))  # angle in degrees, least darkness
STROKE, THICKNESS, PRESSURE = 14, 1.1, 0.42
PAPER, GRAPHITE = np.array([0.965, 0.955, 0.93]), np.array([0.17, 0.17, 0.19])
TILE, GROUT = 17, np.array([0.2, 0.18, 0.17])

Field = NDArray[np.float64]


def hatching(angle: float, rng: np.random.Generator) -> Field:
    """Strokes in one direction, as quantiles of noise that is smeared along them."""
    side = HEIGHT + WIDTH
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), (THICKNESS, STROKE))
    turned = ndimage.rotate(noise, angle, reshape=False, order=1)
    top, left = (side - HEIGHT) // 2, (side - WIDTH) // 2
    field = turned[top : top + HEIGHT, left : left + WIDTH]
    return np.asarray(field.ravel().argsort().argsort().reshape(field.shape) / field.size)


def pencil() -> Field:
    """A cat, hatched more densely where it is darker, with contours, on paper."""
    rng = np.random.default_rng(0)
    photo = color.rgb2gray(transform.resize(data.chelsea(), (HEIGHT, WIDTH), anti_aliasing=True))
    low, high = np.quantile(photo, [0.02, 0.98])
    darkness = 1 - np.clip((ndimage.gaussian_filter(photo, 1.5) - low) / (high - low), 0, 1)
    left = np.ones_like(darkness)  # share of the paper that shows
    for angle, least in LAYERS:
        covered = np.clip((darkness - least) / 0.5, 0, 1) * 0.75
        drawn = np.clip((covered - hatching(angle, rng)) / 0.12 + 0.5, 0, 1)
        left *= 1 - PRESSURE * drawn * (darkness > least - 0.1)
    edges = ndimage.gaussian_filter(photo, 1.2) - ndimage.gaussian_filter(photo, 2.6)
    left *= 1 - 0.75 * np.clip(-edges / 0.03, 0, 1) ** 1.3
    grain = ndimage.gaussian_filter(rng.standard_normal(darkness.shape), 0.7)
    graphite = np.clip((1 - left) * (1 + 0.22 * grain), 0, 1)[..., None]
    return np.asarray(PAPER * (1 - graphite) + GRAPHITE * graphite)


def mosaic() -> Field:
    """A portrait in stone: cells of jittered points, each of one colour, with grout between."""
    rng = np.random.default_rng(0)
    photo = transform.resize(data.astronaut()[:340], (HEIGHT, WIDTH), anti_aliasing=True)
    grid = np.stack(np.mgrid[0:HEIGHT:TILE, 0:WIDTH:TILE], -1).reshape(-1, 2).astype(float)
    points = grid + rng.uniform(0.15, 0.85, grid.shape) * TILE
    pixels = np.stack(np.mgrid[0:HEIGHT, 0:WIDTH], -1)
    distances, nearest = spatial.cKDTree(points).query(pixels, k=2)
    owner = nearest[..., 0]
    count = np.maximum(np.bincount(owner.ravel(), minlength=len(points)), 1)
    colours = np.stack(
        [np.bincount(owner.ravel(), photo[..., c].ravel(), len(points)) / count for c in range(3)],
        -1,
    )
    colours = np.clip((colours - 0.5) * 1.15 + 0.5 + rng.normal(0, 0.03, colours.shape), 0, 1)
    stone = ndimage.gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), 1.2)[..., None]
    offset = pixels - points[owner]
    bevel = -(offset.sum(-1) / TILE)[..., None] * 0.08  # light from the upper left
    tiles = np.clip(colours[owner] * (1 + 0.12 * stone) + bevel, 0, 1)
    border = np.clip((distances[..., 1] - distances[..., 0] - 1.2) / 1.4, 0, 1)[..., None]
    return np.asarray(tiles * border + GROUT * (1 - border))


if __name__ == "__main__":
    for drawing in (pencil, mosaic):
        path = Path(sys.argv[1]) / f"{drawing.__name__}.png"
        Image.fromarray((drawing() * 255).round().astype(np.uint8)).save(path)
