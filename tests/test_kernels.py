"""The CUDA kernels' own source, compiled for the CPU and run thread by thread (tests/emulation)."""

import ctypes
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted((ROOT / "csrc/cuda").glob("*.cu"))
# Without the file that registers the operators, which needs a whole torch and no emulation.
EMULATED = [source for source in KERNELS if source.name != "ops.cu"]
TORCH_HEADERS = Path(torch.__file__).parent / "include"
COMPILER = shutil.which("c++")

MARGIN = 128  # elements of NaN before and after every array that a kernel is given
# A warp of the matting step writes 28 columns and, of small images, 4 rows; a block has two warps.
SIZES = [(3, 3), (5, 7), (4, 28), (17, 31), (8, 29), (9, 57), (3, 113), (6, 56)]
EPS = 1e-7

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="no CUDA compiler (nvcc) found"
)
needs_disassembler = pytest.mark.skipif(
    not all(map(shutil.which, ("cuobjdump", "nvdisasm"))),
    reason="no disassembler (cuobjdump and nvdisasm) found",
)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (c++) found")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("emulation") / "kernels.so"
    options = [
        "-std=c++17",
        "-O1",
        "-U_FORTIFY_SOURCE",  # its longjmp refuses to change stacks
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-shared",
    ]
    includes = [f"-I{ROOT / 'tests/emulation'}", f"-I{TORCH_HEADERS}"]
    sources = [ROOT / "tests/emulation/kernels.cpp", *EMULATED]
    subprocess.run([COMPILER, *options, *includes, "-x", "c++", *sources, "-o", path], check=True)
    return ctypes.CDLL(str(path))


class Kernels:
    """The emulated kernels: arrays lie between margins of NaN, threads run in both orders."""

    def __init__(self, library: ctypes.CDLL, tf32: bool = False) -> None:
        self.library = library
        self.tf32 = tf32  # of the Gram kernels, given float32

    def call(self, name: str, *arguments: object) -> None:
        function = getattr(self.library, name)
        function.restype = ctypes.c_char_p
        message = function(*map(self._c, arguments))
        if message is not None:
            raise RuntimeError(message.decode())

    @staticmethod
    def _c(value: object) -> object:
        if isinstance(value, Tensor):
            return ctypes.c_void_p(value.data_ptr())
        return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_long(int(value))

    def run(
        self, name: str, inputs: list[object], outputs: list[Tensor], sizes: list[int]
    ) -> list[Tensor]:
        """The outputs, once the margins are intact and the order of the threads does not matter."""
        runs = []
        for reverse in (False, True):
            self.library.set_reversed(ctypes.c_bool(reverse))
            given = [_between_margins(v) if isinstance(v, Tensor) else v for v in inputs]
            results = [_between_margins(v) for v in outputs]
            suffix = "tf32" if self.tf32 else _suffix(inputs)
            self.call(f"{name}_{suffix}", *given, *results, *sizes)
            for tensor in results:
                assert _margins_intact(tensor), f"{name} wrote outside its output"
            runs.append(results)
        for one, other in zip(*runs, strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num()), (
                f"{name} depends on the order of its threads"
            )
        return runs[0]

    def factors(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        empty = torch.full((batch, 6, height - 2, width - 2), math.nan, dtype=image.dtype)
        # eps comes last in the C function
        return self.run("matting_factors", [image], [empty], [batch, height, width, EPS])[0]

    def matvec(self, image: Tensor, factors: Tensor, x: Tensor) -> Tensor:
        return self.run(
            "matting_matvec", [image, factors, x], [torch.full_like(x, math.nan)], list(x.shape)
        )[0]

    def filter(self, image: Tensor, factors: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
        order = len(coefficients) - 1
        inputs = [image, factors, x, coefficients, order]
        buffers = torch.full((2 if order > 1 else 0, *x.shape), math.nan, dtype=x.dtype)
        outputs = [torch.full_like(x, math.nan), buffers]
        return self.run("matting_filter", inputs, outputs, list(x.shape))[0]

    def _gram_sizes(self, kind: int, h: Tensor) -> tuple[list[int], Tensor]:
        batch, channels, height, width = h.shape
        sizes = [batch, channels, height * width]
        self.library.workspace.restype = ctypes.c_long
        elements = self.library.workspace(kind, *map(ctypes.c_long, sizes))
        return sizes, torch.full((elements,), math.nan, dtype=_gram_dtype(h))

    def gram(self, h: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(0, h)
        out = torch.full((h.shape[0], h.shape[1], h.shape[1]), math.nan, dtype=_gram_dtype(h))
        return self.run("gram", [h], [out, workspace], sizes)[0]

    def correction(self, h: Tensor, target: Tensor) -> Tensor:
        sizes, workspace = self._gram_sizes(1, h)
        outputs = [torch.full_like(h, math.nan), workspace]
        return self.run("gram_correction", [h, target], outputs, [*sizes, len(target)])[0]

    def backward(self, h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        sizes, workspace = self._gram_sizes(2, h)
        outputs = [torch.full_like(h, math.nan), torch.full_like(target, math.nan), workspace]
        dh, dtarget, _ = self.run(
            "gram_correction_backward", [h, target, grad], outputs, [*sizes, len(target)]
        )
        return dh, dtarget


def _between_margins(tensor: Tensor) -> Tensor:
    flat = torch.full((tensor.numel() + 2 * MARGIN,), math.nan, dtype=tensor.dtype)
    middle = flat[MARGIN : MARGIN + tensor.numel()].view(tensor.shape)
    return middle.copy_(tensor)


def _margins_intact(tensor: Tensor) -> bool:
    whole = torch.tensor([], dtype=tensor.dtype).set_(tensor.untyped_storage())
    return bool(whole[:MARGIN].isnan().all() and whole[MARGIN + tensor.numel() :].isnan().all())


def _suffix(inputs: list[object]) -> str:
    assert isinstance(inputs[0], Tensor)
    return str(inputs[0].dtype).removeprefix("torch.")


def _gram_dtype(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.isfinite().all()
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def kernels(library: ctypes.CDLL) -> Kernels:
    return Kernels(library)


@pytest.fixture
def picture() -> Callable[..., Tensor]:
    """picture(batch, height, width): 8-bit values in [0,1], smooth with an edge and some noise."""

    def make(batch: int, height: int, width: int) -> Tensor:
        y, x = torch.meshgrid(torch.arange(height) / 20, torch.arange(width) / 20, indexing="ij")
        smooth = torch.stack([(y + x).sin(), (y - 2 * x).cos(), (y * x).sin()]) / 4 + 0.5
        edge = torch.where(x + y / 2 > 0.6, 0.3, 0.0)
        noisy = smooth - edge + 0.03 * torch.randn(batch, 3, height, width)
        return (noisy.clamp(0, 1) * 255).round().double() / 255

    return make


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


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_factors(
    kernels: Kernels, picture: Callable[..., Tensor], size: tuple[int, int], dtype: torch.dtype
) -> None:
    image = picture(2, *size).to(dtype)
    factors = kernels.factors(image).double()
    _, inverse = reference.matting_inverse(image, EPS)
    k = torch.zeros_like(inverse)
    rows, columns = torch.triu_indices(3, 3)
    k[..., rows, columns] = factors.permute(0, 2, 3, 1)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    # Compared per window: the inverse's size differs from window to window by orders of magnitude.
    error = (k @ k.mT - inverse).flatten(-2).norm(dim=-1) / inverse.flatten(-2).norm(dim=-1)
    assert error.max() < tolerance


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_matvec(
    kernels: Kernels,
    picture: Callable[..., Tensor],
    size: tuple[int, int],
    channels: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    image = picture(2, *size).to(dtype)
    x = torch.rand(2, channels, *size, dtype=dtype)
    actual = kernels.matvec(image, kernels.factors(image), x)
    assert _relative_error(actual, reference.matting_matvec(image, x, EPS)) < tolerance


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize(("size", "channels"), [((17, 35), 3), ((9, 5), 2), ((3, 3), 6)])
def test_filter(
    kernels: Kernels,
    picture: Callable[..., Tensor],
    size: tuple[int, int],
    channels: int,
    order: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    image = picture(2, *size).to(dtype)
    x = torch.rand(2, channels, *size, dtype=dtype)
    coefficients = torch.randn(order + 1, dtype=torch.float64)
    actual = kernels.filter(image, kernels.factors(image), x, coefficients)
    assert (
        _relative_error(actual, reference.matting_filter(image, x, coefficients, EPS)) < tolerance
    )


@needs_compiler
def test_matvec_does_not_depend_on_how_the_image_is_cut(
    kernels: Kernels, picture: Callable[..., Tensor]
) -> None:
    """More work makes taller strips: seven rows here, the last six, instead of four."""
    image = picture(1, 20, 169).float()
    factors = kernels.factors(image)
    x = torch.rand(1, 55, 20, 169)  # 55 * 7 strips * 20 rows; neither two nor three divide 55
    together = kernels.matvec(image, factors, x)
    for channel in (0, 54):
        alone = kernels.matvec(image, factors, x[:, [channel]])
        assert torch.equal(together[:, [channel]], alone)
    assert _relative_error(together, reference.matting_matvec(image, x, EPS)) < 2e-5


@needs_compiler
def test_filter_keeps_constants(kernels: Kernels, picture: Callable[..., Tensor]) -> None:
    """p(0) = 1 must hold to the last digits: a projection that darkens does so at every update."""
    image = picture(1, 17, 35).float()
    coefficients = torch.randn(41, dtype=torch.float64) / 10
    coefficients[0] += 1 - (coefficients * (-1.0) ** torch.arange(41)).sum()  # T_k(-1) = (-1)^k
    constant = torch.full_like(image, 0.7)
    assert (
        kernels.filter(image, kernels.factors(image), constant, coefficients) - constant
    ).abs().max() < 1e-6


@needs_compiler
def test_same_as_the_cpu_operators(kernels: Kernels, picture: Callable[..., Tensor]) -> None:
    ops = pytest.importorskip("fastfcs.ops", reason="fastfcs is not built")
    image = picture(2, 19, 37).float()
    factors = ops.matting_factors(image, EPS)
    torch.testing.assert_close(kernels.factors(image), factors, rtol=1e-6, atol=1e-7)
    x = torch.rand_like(image)
    coefficients = torch.randn(6, dtype=torch.float64)
    expected = ops.matting_matvec(image, factors, x)
    torch.testing.assert_close(kernels.matvec(image, factors, x), expected, rtol=0, atol=5e-5)
    expected = ops.matting_filter(image, factors, x, coefficients)
    torch.testing.assert_close(
        kernels.filter(image, factors, x, coefficients), expected, rtol=0, atol=5e-5
    )
    h, grad = torch.randn(2, 2, 20, 11, 13)
    target = torch.randn(1, 20, 20)
    torch.testing.assert_close(kernels.gram(h), ops.gram(h), rtol=1e-5, atol=1e-6)
    expected = ops.gram_correction(h, target)
    torch.testing.assert_close(kernels.correction(h, target), expected, rtol=1e-5, atol=1e-5)
    for actual, wanted in zip(
        kernels.backward(h, target, grad),
        ops.gram_correction_backward(h, target, grad),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_empty_batch_and_channels(kernels: Kernels) -> None:
    image = torch.rand(0, 3, 4, 5)
    assert kernels.matvec(image, kernels.factors(image), image).shape == image.shape
    image = torch.rand(1, 3, 4, 5)
    assert kernels.matvec(image, kernels.factors(image), image[:, :0]).shape == (1, 0, 4, 5)
    assert kernels.gram(image[:, :0]).shape == (1, 0, 0)


GRAM_TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.float16: 2e-6,
    torch.bfloat16: 2e-6,
}
STORED_TOLERANCE = {
    **GRAM_TOLERANCE,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}  # half the last digit of the result
# Rows whose beginnings are multiples of 16 bytes, of 4, and of one element; every size of tile.
FEATURES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 16, 17, 31),
    (2, 17, 6, 7),
    (1, 31, 8, 9),
    (3, 32, 16, 16),
    (2, 64, 9, 20),
    (1, 95, 5, 11),
    (2, 96, 8, 18),
    (1, 130, 7, 10),
]


@needs_compiler
@pytest.mark.parametrize("dtype", GRAM_TOLERANCE)
@pytest.mark.parametrize("shape", FEATURES)
def test_gram(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    h = torch.randn(shape).to(dtype)
    actual = kernels.gram(h)
    assert _relative_error(actual, reference.gram(h)) < GRAM_TOLERANCE[dtype]
    assert torch.equal(actual, actual.mT)


def _check_correction(kernels: Kernels, h: Tensor, grad: Tensor, target: Tensor) -> None:
    tolerance = STORED_TOLERANCE[h.dtype]
    correction, expected = kernels.correction(h, target), reference.gram_correction(h, target)
    assert _relative_error(correction, expected) < tolerance
    dh, dtarget = kernels.backward(h, target, grad)
    expected_dh, expected_dtarget = reference.gram_correction_backward(h, target, grad)
    assert _relative_error(dh, expected_dh) < tolerance
    assert _relative_error(dtarget, expected_dtarget) < GRAM_TOLERANCE[h.dtype]
    if h.dtype in (torch.float16, torch.bfloat16) and h.numel() > 100:
        # Rounded once, at the end: weights of one half number would move every second result.
        assert (correction == expected.to(h.dtype)).double().mean() > 0.95
        assert (dh == expected_dh.to(h.dtype)).double().mean() > 0.95


@needs_compiler
@pytest.mark.parametrize("dtype", GRAM_TOLERANCE)
@pytest.mark.parametrize(("shape", "one_target"), [*zip(FEATURES, [False, True] * 5, strict=True)])
def test_gram_correction(
    kernels: Kernels, shape: tuple[int, ...], one_target: bool, dtype: torch.dtype
) -> None:
    """One target serves a batch of one, and of two; otherwise every element has its own."""
    h, grad = torch.randn(2, *shape).to(dtype)
    target = torch.randn(1 if one_target else shape[0], shape[1], shape[1]).to(_gram_dtype(h))
    _check_correction(kernels, h, grad, target)


@needs_compiler
def test_gram_of_many_stages(kernels: Kernels) -> None:
    """A batch so large that its pixels are not split: the rings of stages go round."""
    h, grad = torch.randn(2, 200, 1, 1, 5 * 128 + 7)
    target = torch.randn(1, 1, 1)
    expected = reference.gram_correction_backward(h, target, grad)
    for actual, wanted in zip(kernels.backward(h, target, grad), expected, strict=True):
        assert _relative_error(actual, wanted) < GRAM_TOLERANCE[h.dtype]
    h = torch.randn(200, 1, 1, 5 * 256 + 7).half()
    assert _relative_error(kernels.gram(h), reference.gram(h)) < GRAM_TOLERANCE[h.dtype]


@needs_compiler
@pytest.mark.parametrize("dtype", GRAM_TOLERANCE)
def test_gram_of_misaligned_arrays(
    kernels: Kernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Narrower copies, the same bits."""
    h, grad = torch.randn(2, 1, 33, 8, 8).to(dtype)
    target = torch.randn(1, 33, 33).to(_gram_dtype(h))
    aligned = [kernels.gram(h), kernels.correction(h, target), *kernels.backward(h, target, grad)]
    for margin in (MARGIN + 1, MARGIN + 2):
        monkeypatch.setitem(globals(), "MARGIN", margin)
        again = [kernels.gram(h), kernels.correction(h, target), *kernels.backward(h, target, grad)]
        assert all(torch.equal(a, b) for a, b in zip(aligned, again, strict=True))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_beyond_half_types(kernels: Kernels, dtype: torch.dtype) -> None:
    """Columns of G - H from 1e-2 to 1e5, one of them zero but for h itself."""
    h = (0.03 * torch.randn(1, 40, 8, 8)).to(dtype)
    target = torch.randn(1, 40, 40) * torch.logspace(-2, 5, 40)
    target[..., 7] = 0
    actual, expected = kernels.correction(h, target), reference.gram_correction(h, target)
    for channel in range(40):
        error = _relative_error(actual[:, channel], expected[:, channel])
        assert error < STORED_TOLERANCE[dtype] * 2  # float16: below its normal numbers


@needs_compiler
@pytest.mark.parametrize("shape", FEATURES)
def test_gram_in_tf32(library: ctypes.CDLL, shape: tuple[int, ...]) -> None:
    """Features of ten bits behind the point are taken exactly, all others and weights rounded."""
    kernels = Kernels(library, tf32=True)
    h, grad = torch.randn(2, *shape)
    target = torch.randn(shape[0], shape[1], shape[1])
    short_h, short_grad = (x.bfloat16().float() for x in (h, grad))
    assert _relative_error(kernels.gram(short_h), reference.gram(short_h)) < 2e-6
    _, dtarget = kernels.backward(short_h, target, short_grad)
    wanted = reference.gram_correction_backward(short_h, target, short_grad)[1]
    assert _relative_error(dtarget, wanted) < 2e-6
    pairs = [
        (kernels.gram(h), reference.gram(h)),
        (kernels.correction(h, target), reference.gram_correction(h, target)),
        *zip(
            kernels.backward(h, target, grad),
            reference.gram_correction_backward(h, target, grad),
            strict=True,
        ),
    ]
    for actual, expected in pairs:
        assert _relative_error(actual, expected) < 2**-10
    if h.numel() > 100:
        assert all(_relative_error(*pair) > 1e-5 for pair in pairs)


class MachineCode:
    """Every source compiled once, for sm_90, as setup.py would; what ptxas says about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.messages: dict[Path, str] = {}

    def compile(self, source: Path) -> tuple[str, Path]:
        cubin = self.folder / f"{source.stem}.cubin"
        if source not in self.messages:
            command = ["nvcc", "-std=c++17", "-O3", "-arch=sm_90", "-Xptxas", "-v"]
            command += [f"-I{TORCH_HEADERS}", "-cubin", str(source), "-o", str(cubin)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            self.messages[source] = done.stderr
        return self.messages[source], cubin

    def listing(self, source: Path) -> dict[str, str]:
        """The instructions of every kernel."""
        command = ["cuobjdump", "-sass", str(self.compile(source)[1])]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        functions = (f.split("\n", 1) for f in listing.split("Function : ")[1:])
        return {name: code for name, code in functions}


@pytest.fixture(scope="module")
def machine_code(tmp_path_factory: pytest.TempPathFactory) -> MachineCode:
    return MachineCode(tmp_path_factory.mktemp("cubin"))


@needs_nvcc
@pytest.mark.parametrize("source", EMULATED, ids=lambda path: path.stem)
def test_no_register_spills(machine_code: MachineCode, source: Path) -> None:
    messages, _ = machine_code.compile(source)
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", messages
    )
    assert len(frames) >= 4
    assert set(frames) == {("0", "0", "0")}, messages


def _inner_loop(function: str) -> list[str]:
    """The instructions of a kernel from the target of its last backward branch to that branch."""
    code = re.findall(r"/\*([0-9a-f]{4,})\*/ +(.+?) *;", function)
    addresses = [int(address, 16) for address, _ in code]
    loop = (0, 0)
    for i, (_, text) in enumerate(code):
        target = re.search(r"\bBRA\b.* 0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < addresses[i]:
            loop = (addresses.index(int(target[1], 16)), i + 1)
    return [text for _, text in code[slice(*loop)]]


@needs_nvcc
@needs_disassembler
def test_machine_code_of_the_matting_step(machine_code: MachineCode) -> None:
    """Three rows a loop, straight on, all of it in registers, each load long before its use."""
    listing = machine_code.listing(ROOT / "csrc/cuda/matting.cu")
    (function,) = (code for name, code in listing.items() if "step_kernelIfLi3E" in name)
    loop = _inner_loop(function)
    operations = [re.sub(r"^@\S+ ", "", text).split()[0].split(".")[0] for text in loop]
    count = {name: operations.count(name) for name in ("SHFL", "LDG", "STG", "BRA")}
    # A row: two shuffled copies of each of 6 values, two fits of each of 3 channels; image, v,
    # factors, previous and the sum read, the result and the sum written.
    assert count == {"SHFL": 3 * 18, "LDG": 3 * 18, "STG": 3 * 6, "BRA": 1}
    assert not {"BAR", "LDS", "STS", "LDL", "STL", "BSSY", "CALL"} & set(operations)
    for i, text in enumerate(loop):
        if loaded := re.search(r"\bLDG\S* (R\d+),", text):
            uses = (
                k
                for k, t in enumerate([*loop, *loop][i + 1 :])
                if re.search(rf"\b{loaded[1]}\b", t)
            )
            assert next(uses) > 100, f"{text} is waited for at once"


@needs_nvcc
def test_registers_of_the_gram_kernels(machine_code: MachineCode) -> None:
    """Three blocks of four warps a multiprocessor, but where float64 or odd rows need more."""
    messages, _ = machine_code.compile(ROOT / "csrc/cuda/gram.cu")
    used = re.findall(r"entry function '(\S+)'(?:.*\n)+?.*Used (\d+) registers", messages)
    assert len(used) == 34
    for name, registers in used:
        two = "_kernelId" in name or re.search(r"apply_kernelIfLi\d+ELb0", name)
        assert int(registers) <= (255 if two else 168), name


@needs_nvcc
@needs_disassembler
def test_machine_code_of_the_gram_kernels(machine_code: MachineCode) -> None:
    """Tensor cores for half types and TF32 alone; 16 bytes a copy, a load and a store."""
    kinds = set()
    for name, code in machine_code.listing(ROOT / "csrc/cuda/gram.cu").items():
        half = re.search(r"(?:product|tensor)_kernelIN.*?(Half|BFloat16)", name) is not None
        tf32 = re.search(r"(?:product|tensor)_kernelIN.*?Tf32", name) is not None
        assert ("HMMA" in code) == (half or tf32), name
        assert ("HMMA.1684.F32.TF32" in code) == tf32, name
        wanted: list[str] = []
        if "product_kernel" in name:
            wanted = ["LDGSTS.E.BYPASS.128"]
            wanted += ["HMMA.16816.F32"] if half else [] if tf32 else ["LDS.128"]
        elif "apply_tensor_kernel" in name:
            wanted = ["LDGSTS.E.BYPASS.128", "STG.E.128"]
        elif re.search(r"apply_kernel.*ELb1E", name):
            wanted = ["LDG.E.128", "LDS.128", "STG.E.128"]
        for instruction in wanted:
            assert instruction in code, f"{name} has no {instruction}"
        kinds.add((half, tf32, *wanted))
        if re.search(r"apply_kernelIfLi\d+ELb1E", name):
            # 16 x 16 x 4 multiply-adds are fed by 16 loads of pixels and 64 of weights
            counts = {"FFMA": 1024, "LDS.128": 64, "LDG.E.128": 16}
            assert {i: len(re.findall(rf"\b{i}\b", code)) for i in counts} == counts
    assert len(kinds) == 7
