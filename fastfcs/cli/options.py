"""What the options of several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class _Several(click.ParamType):
    """Numbers with commas between them."""

    def __init__(self, number: Callable[[str], float], name: str, wanted: str) -> None:
        self.number, self.name, self.wanted = number, name, wanted

    def convert(self, value: Any, *_: Any) -> Any:
        try:
            return [self.number(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: {self.wanted}, or several with commas, is wanted")


PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
STEPS = _Several(int, "N[,N...]", "a number of iterations")  # a list, coarse to fine
WEIGHTS = _Several(float, "W[,W...]", "a weight")
DEVICE = click.option(
    "--device",
    help="cpu, cuda, cuda:1 ...; cuda if there is one, by default.",
)
REFINE = click.option(
    "--refine",
    is_flag=True,
    help="Six further updates, which see more: paintings nearer to their style, slower.",
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the convolutions that are differentiated; float32 by default.",
)


def device_named(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not to be had here") from error
    return name
