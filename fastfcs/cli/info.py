"""fastfcs info."""

from __future__ import annotations

import click

from .errors import sentences


@click.command()
@click.option("--weights", default="universal", show_default=True, help="Name or file.")
def info(weights: str) -> None:
    """How the package was built, and what its weights are."""
    import torch
    from safetensors import safe_open

    from .. import _C
    from ..weights import find_weights, load_solver

    with sentences():
        solver = load_solver(weights)
    path = find_weights(weights)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    facts = {
        **_C.build_info(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "weights": path,
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
        "parameters": sum(p.numel() for p in solver.parameters()),
        **header,
    }
    for name, value in facts.items():
        click.echo(f"{name}: {value}")
