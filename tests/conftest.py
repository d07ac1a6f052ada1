"""Fixtures: photographs, the emulated CUDA kernels, and a fixed seed."""

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import emulated
import pytest
import torch
from emulated import alone
from pictures import load_photo
from torch import Tensor
from torch.nn import functional as F

from fastfcs.vgg import VGG19, load_vgg19

THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))

collect_ignore = ["matrix.py", "emulation"]  # programs

PHOTOS = ("chelsea", "coffee", "rocket")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))


@pytest.fixture
def photo() -> Callable[[str, int], Tensor]:
    """photo(name, size) -> (1,3,H,W) float64 in [0,1]."""
    return load_photo


@pytest.fixture(params=PHOTOS)
def any_photo(request: pytest.FixtureRequest) -> str:
    """The name of a photo; tests run once for each."""
    return request.param


@pytest.fixture(scope="session")
def vgg() -> VGG19:
    """The VGG-19 that ships."""
    return load_vgg19()


@pytest.fixture
def allow_tf32() -> Iterator[Callable[[], None]]:
    """allow_tf32() asks for TF32 until the test ends."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_tf32

    def allow() -> None:
        settings.allow_tf32 = True

    yield allow
    settings.allow_tf32 = before


@pytest.fixture
def native_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute convolutions in half types as processors with instructions for them do.

    They accumulate in float32 and round once. Others also round within the sums, and take a hundred
    times as long.
    """
    original = F.conv2d

    def convolve(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if x.dtype.itemsize > 2:
            return original(x, weight, bias, *args, **kwargs)
        wide = None if bias is None else bias.float()
        return original(x.float(), weight.float(), wide, *args, **kwargs).to(x.dtype)

    monkeypatch.setattr(F, "conv2d", convolve)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A folder that all workers of this run of the tests share."""
    folder = tmp_path_factory.getbasetemp()
    # Tests that mutants.py runs inherit the environment of a worker, but are a run of their own.
    return folder.parent if hasattr(pytestconfig, "workerinput") else folder


@pytest.fixture(scope="session")
def emulation(shared_folder: Path) -> Path:
    """The folder of the compiled emulation."""
    with alone(shared_folder / "emulation") as folder:
        if not (folder / "kernels.so").exists():
            emulated.build(folder)
    return folder


@pytest.fixture(scope="session")
def library(emulation: Path) -> ctypes.CDLL:
    """The emulated CUDA kernels."""
    return ctypes.CDLL(str(emulation / "kernels.so"))


@pytest.fixture(scope="session")
def kernels(library: ctypes.CDLL) -> emulated.Kernels:
    return emulated.Kernels(library)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, with the same number of threads."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
