"""The networks that ship with the package, and files of weights in general."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch

from .files import save_tensors
from .network import UnrolledSolver
from .refinement import RefinedSolver

_FOLDER = Path(str(files("fastfcs"))) / "weights"


def find_weights(source: str | Path) -> Path:
    """Find a file of weights.

    Args:
        source: a safetensors file, or the name of weights that ship: "universal", "small", "tiny".

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: the source is neither.

    Examples:
        >>> from fastfcs.weights import find_weights
        >>> find_weights("tiny").name
        'tiny.safetensors'
    """
    for path in (Path(source), _FOLDER / f"{source}.safetensors"):
        if path.is_file():
            return path
    names = sorted(p.stem for p in _FOLDER.glob("*.safetensors"))
    raise FileNotFoundError(
        f"weights must be a safetensors file or one of {names}, got {str(source)!r}"
    )


def is_shipped(source: str | Path) -> bool:
    """Tell whether `find_weights` finds weights that ship.

    Args:
        source: see `find_weights`.

    Returns:
        Whether they are of the package.

    Raises:
        FileNotFoundError: there are no such weights.

    Examples:
        >>> from fastfcs.weights import is_shipped
        >>> is_shipped("tiny")
        True
    """
    return find_weights(source).parent == _FOLDER


def load_solver(source: str | Path = "universal") -> UnrolledSolver:
    """Load a network, in eval mode and float32 on the CPU.

    Args:
        source: see `find_weights`.

    Returns:
        The network.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: the file does not hold a fastfcs network.

    Examples:
        >>> from fastfcs.weights import load_solver
        >>> load_solver("tiny").updates
        4
    """
    from safetensors import SafetensorError, safe_open

    path = find_weights(source)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # no random initialisation that would be thrown away
            solver = UnrolledSolver(**json.loads(metadata["architecture"]))
        solver.load_state_dict(state, assign=True)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"weights must be those of a fastfcs network, got {path}") from error
    return solver.eval()


def save_solver(solver: UnrolledSolver, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a network to a safetensors file, atomically, for `load_solver`.

    Weights are stored in float16, which halves the file and changes results by less than an 8-bit
    image can show.

    Args:
        solver: the network.
        path: the file to write.
        metadata: further strings for the file's header, for example about training.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from fastfcs.network import UnrolledSolver
        >>> from fastfcs.weights import load_solver, save_solver
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> save_solver(UnrolledSolver(channels=(8, 8)), file, {"licence": "MIT"})
        >>> load_solver(file).architecture
        {'updates': 4, 'channels': [8, 8]}
    """
    architecture = json.dumps(solver.architecture)
    halves = {name: tensor.half() for name, tensor in solver.state_dict().items()}
    save_tensors(halves, path, {"format": "fastfcs", "architecture": architecture, **metadata})


def load_network(
    weights: str | Path = "universal", refine: bool = False
) -> UnrolledSolver | RefinedSolver:
    """Load a network, optionally followed by a refinement.

    Args:
        weights: see `find_weights`.
        refine: whether to add a `Refinement`.

    Returns:
        The solver, in eval mode.

    Raises:
        FileNotFoundError, ValueError: see `load_solver`.

    Examples:
        >>> from fastfcs.weights import load_network
        >>> load_network("tiny", refine=True).updates_at((384, 512))
        5
    """
    solver = load_solver(weights)
    return RefinedSolver(solver).eval() if refine else solver
