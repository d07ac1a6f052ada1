"""VGG-19 features (Simonyan and Zisserman, arXiv:1409.1556), in which the losses are measured."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

_FOLDER = Path(str(files("fastfcs"))) / "weights/features"
SHIPPED = _FOLDER / "vgg19.safetensors"
LOW_RANK = _FOLDER / "vgg19-low-rank.safetensors"  # a likeness of it, fastfcs.training.low_rank
STYLE_LAYERS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2")
CONTENT_LAYER = "conv4_2"

# Channels of the convolutions of each block; a 2x2 maximum follows each block.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512))
_IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


class VGG19(nn.Module):
    """VGG-19 up to conv4_2; parameters are named as torchvision's (``features.0.weight`` ...).

    ``forward`` takes images (B, 3, H, W) in [0, 1], RGB, H and W at least 8, and the names of the
    layers wanted, conv1_1 ... conv4_2. It returns ``{layer: features (B, c_l, H_l, W_l)}``, each
    taken after its ReLU, and computes nothing beyond the deepest. The parameters are frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.layers: dict[str, int] = {}  # name: index of the ReLU in features
        channels = 3
        for block, widths in enumerate(_BLOCKS, start=1):
            for number, width in enumerate(widths, start=1):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
                self.layers[f"conv{block}_{number}"] = len(layers) - 1
                if f"conv{block}_{number}" == CONTENT_LAYER:
                    break
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # Preprocessing belongs to the source of the weights: features see (image - mean) * scale.
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", _IMAGENET_MEAN, persistent=False)
        self.register_buffer("scale", 1 / _IMAGENET_STD, persistent=False)

    def forward(
        self, image: Tensor, layers: Iterable[str] = (*STYLE_LAYERS, CONTENT_LAYER)
    ) -> dict[str, Tensor]:
        taps = {self._index(layer): layer for layer in layers}
        x = (image - self.mean) * self.scale
        found = {}
        for index in range(max(taps) + 1):
            x = self.features[index](x)
            if index in taps:
                # The next layer never writes in place on a tap: it is a convolution or a maximum.
                found[taps[index]] = x
        return found

    def _index(self, layer: str) -> int:
        if layer not in self.layers:
            raise ValueError(f"layer is {layer!r}; one of {', '.join(self.layers)} is wanted")
        return self.layers[layer]


def low_rank(inputs: int, rank: int, outputs: int) -> nn.Sequential:
    """A convolution of low rank: 3x3 to ``rank`` channels, and 1x1 from these to all."""
    first = nn.Conv2d(inputs, rank, 3, padding=1, bias=False)
    return nn.Sequential(first, nn.Conv2d(rank, outputs, 1))


def projected(layer: nn.Module, channels: int, kept: int) -> nn.Sequential:
    """A layer whose ``channels`` are brought to fewer by a product: for Gram matrices alone."""
    return nn.Sequential(layer, nn.Conv2d(channels, kept, 1, bias=False))


def load_vgg19(path: str | Path | None = None) -> VGG19:
    """VGG-19 with pretrained weights: torchvision's, a ``.pth`` or ``.safetensors``, or those that
    ship, of the original network in 8 bits. Layers may be `low_rank` or `projected`.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: the file does not hold VGG-19.
    """
    path = SHIPPED if path is None else Path(path)
    state = _read(path)
    with torch.device("meta"):  # no random initialisation that would be thrown away
        vgg = VGG19()
        for index in range(len(vgg.features)):
            first, last = (state.get(f"features.{index}.{k}.weight") for k in (0, 1))
            if first is not None and last is not None:
                vgg.features[index] = low_rank(first.shape[1], *last.shape[1::-1])
            elif last is not None:
                vgg.features[index] = projected(vgg.features[index], *last.shape[1::-1])
    wanted = vgg.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(f"path: {path} is not a VGG-19 file: it lacks {missing[0]!r}")
    vgg.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
    vgg.mean, vgg.scale = state.get("mean", vgg.mean), state.get("scale", vgg.scale)
    return vgg.requires_grad_(False).eval()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no VGG-19 file {path}")
    try:
        if path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True)
        from safetensors.torch import load_file

        found = load_file(path)
        for name in [name for name in found if name.endswith(".codes")]:  # of 8 bits, into a table
            name = name.removesuffix(".codes")
            found[name] = found[f"{name}.table"][found[f"{name}.codes"].long()]
        return found
    except Exception as error:  # of half a dozen kinds, pages long
        raise ValueError(f"path: {path} cannot be read as a VGG-19 file") from error
