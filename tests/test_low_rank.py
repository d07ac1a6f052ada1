"""VGG-19 at low rank, against VGG-19."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
from pictures import stretched_photo
from PIL import Image
from torch import Tensor, nn

from fastfcs.training.low_rank import RANKS, reduce_vgg
from fastfcs.vgg import LOW_RANK, STYLE_LAYERS, VGG19, load_vgg19


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    return load_vgg19()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("chelsea", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


def unexplained(found: Tensor, wanted: Tensor) -> float:
    """What is left of the wanted features when those found, in their own scale, are taken away."""
    scale = (found * wanted).sum() / found.square().sum()
    return float((scale * found - wanted).square().sum() / wanted.square().sum())


def test_the_one_that_ships_sees_as_vgg_does(vgg: VGG19) -> None:
    reduced = load_vgg19(LOW_RANK)
    image = stretched_photo("coffee", 160, 168)
    found, wanted = reduced(image), vgg(image)
    for layer, limit in zip(STYLE_LAYERS[:3], (0.01, 0.05, 0.1), strict=True):
        assert unexplained(found[layer], wanted[layer]) < limit
        assert 0.3 < float(found[layer].square().mean()) < 3
    first = [m[0] if isinstance(m, nn.Sequential) else m for m in reduced.features]
    ranks = [m.out_channels for m in first if isinstance(m, nn.Conv2d)]
    assert ranks[1:] == list(RANKS[1:])
    products = [
        sum(p.numel() for m in net.features for p in m.parameters()) for net in (reduced, vgg)
    ]
    assert products[0] < 0.65 * products[1]


def test_full_rank_is_vgg(vgg: VGG19, folder: Path, tmp_path: Path) -> None:
    ranks = (0, 64, 128, 0, 0, 0, 0, 0, 0, 0)
    found = reduce_vgg(
        folder, folder, tmp_path / "x.safetensors", ranks=ranks, pictures=18, size=96
    )
    image = stretched_photo("coffee", 96, 104)
    features, wanted = found(image), vgg(image)
    left = [unexplained(features[layer], wanted[layer]) for layer in STYLE_LAYERS[:3]]
    assert max(left) < 0.02, left  # of the ridge, 8 bits and two pictures


def test_components_keep_gram_matrices(vgg: VGG19, folder: Path, tmp_path: Path) -> None:
    image, norms = stretched_photo("coffee", 96, 104), []
    h = vgg(image)["conv4_2"].flatten(2)
    options = {"ranks": (0,) * 10, "pictures": 2, "size": 96}
    for kept in (512, 128):
        found = reduce_vgg(folder, folder, tmp_path / f"{kept}.safetensors", kept=kept, **options)
        g = found(image)["conv4_2"].flatten(2)
        assert g.shape[1] == kept
        norms.append(float((g.mT @ g).norm() / (h.mT @ h).norm()))
    assert 0.8 * norms[0] < norms[1] < norms[0]
    features = found(image)
    for layer in STYLE_LAYERS[:3]:
        assert unexplained(features[layer], vgg(image)[layer]) < 3e-3  # of 8 bits


def test_a_lower_rank_leaves_more(vgg: VGG19, folder: Path, tmp_path: Path) -> None:
    image = stretched_photo("coffee", 96, 104)
    left = []
    for rank in (4, 16, 40):
        ranks = (0, rank, *[0] * 8)
        options = {"ranks": ranks, "pictures": 3, "size": 64, "kept": 32}
        found = reduce_vgg(folder, folder, tmp_path / f"{rank}.safetensors", **options)
        assert found.features[2][0].out_channels == rank
        assert found(image)["conv4_2"].shape[1] == 32
        left.append(unexplained(found(image)["conv1_2"], vgg(image)["conv1_2"]))
    assert left[0] > 1.5 * left[1] > 1.5 * left[2]
    assert left[1] < 0.05


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must contain pictures"):
        reduce_vgg(tmp_path, tmp_path, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
