"""The emulation of the CUDA kernels: what it is there to catch."""

import ctypes

import pytest
import torch
from emulated import Kernels, needs_compiler


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (0, "a barrier was not reached by all threads"),
        (1, "a barrier was not reached by all threads"),
        (2, "a kernel wrote outside its shared memory"),
    ],
)
def test_emulation_catches_faults(library: ctypes.CDLL, fault: int, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        Kernels(library).call("run_trial", fault, torch.zeros(64))


@needs_compiler
def test_emulation_poisons_shared_memory_and_shows_races(library: ctypes.CDLL) -> None:
    unset = torch.zeros(64)
    Kernels(library).call("run_trial", 3, unset)
    assert unset.isnan().all()
    orders = []
    for reverse in (False, True):
        library.set_reversed(ctypes.c_bool(reverse))
        orders.append(torch.zeros(64))
        Kernels(library).call("run_trial", 4, orders[-1])
    assert not torch.equal(orders[0].nan_to_num(), orders[1].nan_to_num())


@needs_compiler
@pytest.mark.parametrize("reverse", [False, True])
def test_emulation_shuffles(library: ctypes.CDLL, reverse: bool) -> None:
    library.set_reversed(ctypes.c_bool(reverse))
    out = torch.zeros(64)
    Kernels(library).call("run_trial", 5, out)
    lane = torch.arange(64) % 32
    warp = torch.arange(64) - lane
    up = torch.where(lane > 0, lane - 1, lane)  # a lane without such a neighbour keeps its own
    down = torch.where(lane < 30, lane + 2, lane)
    assert torch.equal(out, (warp + up + 100 * (warp + down) + 10000 * (warp + 5)).float())
