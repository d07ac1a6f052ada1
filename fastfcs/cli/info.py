"""fastfcs info."""

from __future__ import annotations

import click

from .errors import sentences
from .options import WEIGHTS


@click.command()
@WEIGHTS
def info(weights: str) -> None:
    """Show how fastfcs was built and what a file of weights contains."""
    import torch
    from safetensors import safe_open

    from .. import _C
    from ..weights import find_weights, load_solver

    with sentences():
        solver = load_solver(weights)
    path = find_weights(weights)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    properties = {
        **_C.build_info(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "weights": path,
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
        "parameters": sum(p.numel() for p in solver.parameters()),
        **header,
    }
    for name, value in properties.items():
        click.echo(f"{name}: {value}")
