"""VGG-19 features (Simonyan and Zisserman, arXiv:1409.1556), in which the losses are measured.

Both files that ship are made by `fastfcs.training.features`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from .files import save_tensors
from .reproducible import convolve

_FOLDER = Path(str(files("fastfcs"))) / "weights/features"
SHIPPED = _FOLDER / "vgg19.safetensors"
LOW_RANK = _FOLDER / "vgg19-low-rank.safetensors"  # see fastfcs.training.low_rank
STYLE_LAYERS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2")
CONTENT_LAYER = "conv4_2"

# Channels of the convolutions of each block; 2x2 max pooling follows each block.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512))
_IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


class VGG19(nn.Module):
    """VGG-19 up to conv4_2; parameters are named as torchvision's (``features.0.weight`` ...).

    Attributes:
        layers: the index in ``features`` of each layer's ReLU, by name, conv1_1 ... conv4_2.
        mean, scale: the preprocessing, (3, 1, 1) each, which belongs to the weights: ``features``
            take (image - mean) * scale.

    Examples:
        >>> import torch
        >>> from fastfcs.vgg import VGG19
        >>> features = VGG19()(torch.rand(1, 3, 16, 24), ["conv1_2", "conv3_2"])
        >>> {layer: tuple(h.shape) for layer, h in features.items()}
        {'conv1_2': (1, 64, 16, 24), 'conv3_2': (1, 256, 4, 6)}
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.layers: dict[str, int] = {}
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
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", _IMAGENET_MEAN, persistent=False)
        self.register_buffer("scale", 1 / _IMAGENET_STD, persistent=False)

    def forward(
        self, image: Tensor, layers: Iterable[str] = (*STYLE_LAYERS, CONTENT_LAYER)
    ) -> dict[str, Tensor]:
        """Compute features of images. Nothing beyond the deepest of the layers is computed.

        Args:
            image: (B, 3, H, W) in [0, 1], RGB, H and W at least 8.
            layers: names among conv1_1 ... conv4_2.

        Returns:
            The features of each layer after its ReLU, (B, c_l, H_l, W_l), by name.

        Raises:
            ValueError: there is no such layer.
        """
        names = {self._index(layer): layer for layer in layers}
        x = (image - self.mean) * self.scale
        features = {}
        for index in range(max(names) + 1):
            x = self.features[index](x)
            if index in names:
                # The next layer, a convolution or max pooling, does not overwrite it.
                features[names[index]] = x
        return features

    def _index(self, layer: str) -> int:
        if layer not in self.layers:
            raise ValueError(f"layer must be one of {', '.join(self.layers)}, got {layer!r}")
        return self.layers[layer]


class Pointwise(nn.Conv2d):
    """A 1x1 convolution by `fastfcs.reproducible.convolve`.

    Examples:
        >>> import torch
        >>> from fastfcs.vgg import Pointwise
        >>> Pointwise(8, 16, 1)(torch.rand(1, 8, 6, 4)).shape
        torch.Size([1, 16, 6, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, 0)


def low_rank(inputs: int, rank: int, outputs: int) -> nn.Sequential:
    """Make a convolution of low rank: 3x3 to ``rank`` channels, then 1x1.

    Args:
        inputs, rank, outputs: numbers of channels.

    Returns:
        The two convolutions; only the second has a bias.

    Examples:
        >>> import torch
        >>> from fastfcs.vgg import low_rank
        >>> low_rank(64, 32, 128)(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 128, 8, 8])
    """
    first = nn.Conv2d(inputs, rank, 3, padding=1, bias=False)
    return nn.Sequential(first, Pointwise(rank, outputs, 1))


def projected(layer: nn.Module, channels: int, components: int) -> nn.Sequential:
    """Append a projection of the channels to a layer of which only Gram matrices are used.

    Args:
        layer: any module.
        channels: number of channels of the layer's output.
        components: number of channels after the projection.

    Returns:
        The layer and a 1x1 convolution without bias.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from fastfcs.vgg import projected
        >>> projected(nn.ReLU(), 64, 16)(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """
    return nn.Sequential(layer, Pointwise(channels, components, 1, bias=False))


def load_vgg19(path: str | Path | None = None) -> VGG19:
    """Load VGG-19 with pretrained weights, its parameters frozen.

    Args:
        path: a file written by `save_vgg19`, or torchvision's weights as ``.pth`` or
            ``.safetensors``. By default the file that ships, the original network in 8 bits.

    Returns:
        The network in eval mode and float32 on the CPU; layers may be `low_rank` or `projected`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold VGG-19.

    Examples:
        >>> from fastfcs.vgg import load_vgg19
        >>> vgg = load_vgg19()
        >>> any(parameter.requires_grad for parameter in vgg.parameters())
        False
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
    names = list(vgg.state_dict())
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"path must be a VGG-19 file, got {path}, which lacks {missing[0]!r}")
    vgg.load_state_dict({name: state[name].float() for name in names}, assign=True)
    vgg.mean, vgg.scale = state.get("mean", vgg.mean), state.get("scale", vgg.scale)
    return vgg.requires_grad_(False).eval()


def save_vgg19(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write the weights of VGG-19 in 8 bits, atomically, for `load_vgg19`.

    Args:
        tensors: a state dict of `VGG19`, with "mean" and "scale". Floating tensors of 4 dimensions,
            the weights, are encoded; everything else is stored as it is.
        path: the safetensors file to write.
        metadata: strings for the file's header.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from fastfcs.vgg import save_vgg19
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> file = Path(tempfile.mkdtemp()) / "vgg.safetensors"
        >>> save_vgg19({"features.0.weight": torch.randn(64, 3, 3, 3)}, file, {"licence": "MIT"})
        >>> {name: str(tensor.dtype) for name, tensor in sorted(load_file(file).items())}
        {'features.0.weight.codes': 'torch.uint8', 'features.0.weight.table': 'torch.float32'}
    """
    encoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        is_weight = tensor.dim() == 4 and tensor.is_floating_point()
        encoded |= _encode(name, tensor) if is_weight else {name: tensor}
    save_tensors(encoded, path, metadata)


def _encode(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Weights in 8 bits: codes, and the table of 256 values they index.

    The table is quadratic, finer near 0 where most weights are: factors of `low_rank` range over up
    to 50 standard deviations.
    """
    u = torch.linspace(-1, 1, 256)
    table = weight.abs().max() * u * u.abs()
    codes = torch.bucketize(weight, (table[1:] + table[:-1]) / 2)
    return {f"{name}.codes": codes.byte(), f"{name}.table": table}


def _decode(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which every weight in 8 bits is float32 again."""
    for codes in [name for name in state if name.endswith(".codes")]:
        name = codes.removesuffix(".codes")
        state[name] = state[f"{name}.table"][state[codes].long()]
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing VGG-19 file, got {path}")
    try:
        state: dict[str, Tensor]
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return _decode(state)
    except Exception as error:  # a damaged file raises errors of half a dozen types, pages long
        raise ValueError(f"path: {path} cannot be read as a VGG-19 file") from error
