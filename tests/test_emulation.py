"""The emulation of the CUDA kernels catches the faults that it is meant to catch."""

import ctypes
import math

import pytest
import torch
from emulated import ORDERS, Kernels, Protected, needs_compiler
from torch import Tensor

pytestmark = needs_compiler


def trial(library: ctypes.CDLL, kernel: str, order: str = "forward") -> Tensor:
    """The result of a kernel of tests/emulation/kernels.cpp for the input 100, 101, 102..."""
    library.set_order(ctypes.c_long(ORDERS.index(order)))
    to = Protected(torch.full((64,), math.nan), order == "forward", offset=0)
    values = Protected(torch.arange(100.0, 164.0), order == "forward", offset=0)
    Kernels(library).call("run_trial", kernel, to.tensor, values.tensor)
    return to.tensor


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent_barrier", "a barrier was not reached by all threads"),
        ("divergent_shuffle", "a barrier was not reached by all threads"),
        ("beyond_shared", "a kernel wrote outside its shared memory"),
        ("misaligned_vector", r"a misaligned access \(.*kernels.cpp:\d+\)"),
        ("misaligned_copy", "an asynchronous copy is misaligned"),
        ("copy_not_awaited", "a thread ended before its copies arrived"),
        ("overflowing_offset", r"an integer overflow \(.*kernels.cpp:\d+\)"),
    ],
)
def test_faults(library: ctypes.CDLL, kernel: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^{kernel}: {message}"):
        trial(library, kernel)


@pytest.mark.parametrize(
    ("kernel", "order"), [("writes_beyond", "forward"), ("reads_before", "reversed")]
)
def test_access_outside_an_array(library: ctypes.CDLL, kernel: str, order: str) -> None:
    """Protected memory follows an array in one order and precedes it in the others."""
    with pytest.raises(RuntimeError, match="a thread accessed memory outside its arrays"):
        trial(library, kernel, order)
    trial(library, "shuffles")  # the next launch works again


def test_shared_memory_is_poisoned(library: ctypes.CDLL) -> None:
    assert trial(library, "unset_shared").isnan().all()


@pytest.mark.parametrize(
    "kernel", ["missing_barrier", "missing_wait", "early_copy", "dependent_blocks"]
)
def test_races_show_as_results_that_depend_on_the_order(library: ctypes.CDLL, kernel: str) -> None:
    forward, reverse, shuffled = (trial(library, kernel, order).nan_to_num() for order in ORDERS)
    assert not torch.equal(forward, reverse)
    assert not torch.equal(forward, shuffled)


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles(library: ctypes.CDLL, order: str) -> None:
    lane = torch.arange(64) % 32
    warp = torch.arange(64) - lane
    up = torch.where(lane > 0, lane - 1, lane)  # a lane without a neighbour keeps its value
    down = torch.where(lane < 30, lane + 2, lane)
    expected = (warp + up + 100 * (warp + down) + 10000 * (warp + 5)).float()
    assert torch.equal(trial(library, "shuffles", order), expected)
