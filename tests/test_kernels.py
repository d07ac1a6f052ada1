"""The CUDA kernels' own source, compiled for the CPU and run thread by thread (tests/emulation)."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from emulated import (
    EMULATED,
    EPS,
    ORDERS,
    ROOT,
    TORCH_HEADERS,
    Kernels,
    alone,
    gram_dtype,
    needs_compiler,
)
from reference import relative_error
from toolchain import cuda_tool
from torch import Tensor

# A warp of the matting step writes 28 columns and, in small images, 4 rows. A block has two warps.
SIZES = [(3, 3), (5, 7), (4, 28), (17, 31), (8, 29), (9, 57), (3, 113), (6, 56)]

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="no CUDA compiler (nvcc) found"
)
needs_disassembler = pytest.mark.skipif(
    not all(map(cuda_tool, ("cuobjdump", "nvdisasm"))),
    reason="no disassembler (cuobjdump and nvdisasm) found",
)


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
    # Compared per window, because the inverses differ by orders of magnitude.
    error = (k @ k.mT - inverse).flatten(-2).norm(dim=-1) / inverse.flatten(-2).norm(dim=-1)
    assert error.max() < tolerance


@needs_compiler
@pytest.mark.parametrize(
    ("channels", "dtype", "tolerance"),
    # Float32 takes one, three or two channels at a time, float64 one.
    [*((c, torch.float32, 2e-5) for c in (1, 3, 4)), (3, torch.float64, 1e-10)],
)
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
    assert relative_error(actual, reference.matting_matvec(image, x, EPS)) < tolerance


@needs_compiler
@pytest.mark.parametrize(
    ("order", "dtype", "tolerance"),
    [*((k, torch.float32, 2e-5) for k in (0, 1, 2, 3, 4, 9)), (9, torch.float64, 1e-10)],
)
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
    assert relative_error(actual, reference.matting_filter(image, x, coefficients, EPS)) < tolerance


@needs_compiler
def test_matvec_does_not_depend_on_how_the_image_is_cut(
    kernels: Kernels, picture: Callable[..., Tensor]
) -> None:
    """More work makes taller strips: here seven rows, six in the last one, instead of four."""
    image = picture(1, 20, 169).float()
    factors = kernels.factors(image)
    x = torch.rand(1, 55, 20, 169)  # 55 * 7 strips * 20 rows; neither two nor three divide 55
    together = kernels.matvec(image, factors, x)
    for channel in (0, 54):
        alone = kernels.matvec(image, factors, x[:, [channel]])
        assert torch.equal(together[:, [channel]], alone)
    assert relative_error(together, reference.matting_matvec(image, x, EPS)) < 2e-5


@needs_compiler
def test_filter_keeps_constants(kernels: Kernels, picture: Callable[..., Tensor]) -> None:
    """p(0) = 1 must hold to the last digits: a projection would darken a little at every update."""
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
    for gradient, expected in zip(
        kernels.backward(h, target, grad),
        ops.gram_correction_backward(h, target, grad),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_empty_batch_and_channels(kernels: Kernels) -> None:
    image = torch.rand(0, 3, 4, 5)
    assert kernels.matvec(image, kernels.factors(image), image).shape == image.shape
    image = torch.rand(1, 3, 4, 5)
    assert kernels.matvec(image, kernels.factors(image), image[:, :0]).shape == (1, 0, 4, 5)
    assert kernels.gram(image[:, :0]).shape == (1, 0, 0)


@pytest.fixture(params=[False, True], ids=["channels_first", "channels_last"])
def channels_last(request: pytest.FixtureRequest) -> bool:
    """The layout of features in the Gram kernels."""
    return request.param


@pytest.fixture
def gram_kernels(library: ctypes.CDLL, channels_last: bool) -> Kernels:
    return Kernels(library, channels_last=channels_last)


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
}  # half a unit in the last place of the result
# Rows that begin at multiples of 16 bytes, of 4, and of one element; all sizes of tiles.
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


# Every shape in float64, float32 and one of the two half types.
CASES = [
    (shape, dtype)
    for i, shape in enumerate(FEATURES)
    for dtype in (torch.float64, torch.float32, (torch.float16, torch.bfloat16)[i // 2 % 2])
]


@needs_compiler
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_gram(gram_kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    h = torch.randn(shape).to(dtype)
    actual = gram_kernels.gram(h)
    assert relative_error(actual, reference.gram(h)) < GRAM_TOLERANCE[dtype]
    assert torch.equal(actual, actual.mT)


def _check_correction(kernels: Kernels, h: Tensor, grad: Tensor, target: Tensor) -> None:
    tolerance = STORED_TOLERANCE[h.dtype]
    correction, expected = kernels.correction(h, target), reference.gram_correction(h, target)
    assert relative_error(correction, expected) < tolerance
    dh, dtarget = kernels.backward(h, target, grad)
    expected_dh, expected_dtarget = reference.gram_correction_backward(h, target, grad)
    assert relative_error(dh, expected_dh) < tolerance
    assert relative_error(dtarget, expected_dtarget) < GRAM_TOLERANCE[h.dtype]
    if h.dtype in (torch.float16, torch.bfloat16) and h.numel() > 100:
        # Rounded once, at the end. Weights of one half number would change every second result.
        assert (correction == expected.to(h.dtype)).double().mean() > 0.95
        assert (dh == expected_dh.to(h.dtype)).double().mean() > 0.95


@needs_compiler
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_gram_correction(gram_kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Every second shape has one target for the whole batch, the others one per element."""
    one_target = FEATURES.index(shape) % 2 == 1
    h, grad = torch.randn(2, *shape).to(dtype)
    target = torch.randn(1 if one_target else shape[0], shape[1], shape[1]).to(gram_dtype(h))
    _check_correction(gram_kernels, h, grad, target)


@needs_compiler
def test_gram_of_many_stages(gram_kernels: Kernels) -> None:
    """With three slices, the minimum for every batch, the rings of stages wrap around."""
    gram_kernels.library.set_gram_blocks(ctypes.c_long(1))
    h, grad = torch.randn(2, 2, 1, 1, 3 * 6 * 128 + 7)
    target = torch.randn(1, 1, 1)
    references = reference.gram_correction_backward(h, target, grad)
    for actual, expected in zip(gram_kernels.backward(h, target, grad), references, strict=True):
        assert relative_error(actual, expected) < GRAM_TOLERANCE[h.dtype]
    h = torch.randn(1, 1, 1, 3 * 6 * 256 + 7).half()
    assert relative_error(gram_kernels.gram(h), reference.gram(h)) < GRAM_TOLERANCE[h.dtype]
    gram_kernels.library.set_gram_blocks(ctypes.c_long(1584))


@needs_compiler
@pytest.mark.parametrize("dtype", GRAM_TOLERANCE)
def test_gram_of_misaligned_arrays(
    library: ctypes.CDLL, channels_last: bool, dtype: torch.dtype
) -> None:
    """Copies are narrower but the bits the same, whichever array is not 16-byte aligned."""
    h, grad = torch.randn(2, 1, 40, 8, 8).to(dtype)
    target = torch.randn(1, 40, 40).to(gram_dtype(h))

    def results(kernels: Kernels) -> list[Tensor]:
        correction = kernels.correction(h, target)
        return [kernels.gram(h), correction, *kernels.backward(h, target, grad)]

    aligned = results(Kernels(library, channels_last=channels_last))
    for array in (0, 2, 3):  # h; grad, or the correction's result; dh
        for offset in (
            (1, 2) if dtype.itemsize == 2 else (1,)
        ):  # half types also have copies of four bytes
            again = results(
                Kernels(library, channels_last=channels_last, misaligned=array, offset=offset)
            )
            assert all(torch.equal(a, b) for a, b in zip(aligned, again, strict=True))


@needs_compiler
@pytest.mark.parametrize(("name", "channels"), [("float16", 70), ("tf32", 70), ("float32", 70)])
def test_gram_gives_the_same_bits_on_every_device(
    library: ctypes.CDLL, channels_last: bool, name: str, channels: int
) -> None:
    """On a small device, apply has fewer blocks and reads the weights of every step again."""
    kernels = Kernels(library, tf32=name == "tf32", channels_last=channels_last)
    h, grad = torch.randn(2, 1, channels, 15, 32).to(
        torch.float16 if name == "float16" else torch.float32
    )
    target = torch.randn(1, channels, channels)
    results = []
    for device in [(7, 64 * 1024, 48 * 1024), (132, 228 * 1024, 227 * 1024)]:
        library.set_device(*map(ctypes.c_long, device))
        results.append([kernels.correction(h, target), *kernels.backward(h, target, grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_compiler
def test_gram_and_matting_in_shuffled_order(
    library: ctypes.CDLL, channels_last: bool, picture: Callable[..., Tensor]
) -> None:
    """`run` compares the bits of all orders of threads and blocks that the emulation has."""
    kernels = Kernels(library, channels_last=channels_last, orders=ORDERS)
    image = picture(1, 9, 57).float()
    x = torch.rand_like(image)
    actual = kernels.matvec(image, kernels.factors(image), x)
    assert relative_error(actual, reference.matting_matvec(image, x, EPS)) < 2e-5
    h, grad = torch.randn(2, 1, 40, 6, 20).half()
    _check_correction(kernels, h, grad, torch.randn(1, 40, 40))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_beyond_half_types(gram_kernels: Kernels, dtype: torch.dtype) -> None:
    """Columns of G - H from 1e-2 to 1e5; one column of H is zero."""
    h = (0.03 * torch.randn(1, 40, 8, 8)).to(dtype)
    target = torch.randn(1, 40, 40) * torch.logspace(-2, 5, 40)
    target[..., 7] = 0
    actual, expected = gram_kernels.correction(h, target), reference.gram_correction(h, target)
    for channel in range(40):
        error = relative_error(actual[:, channel], expected[:, channel])
        assert error < STORED_TOLERANCE[dtype] * 2  # float16: some are subnormal
    target = 1e4 * torch.randn(1, 40, 40)
    target[:, 1::2] = 0  # only every other thread sees a column's largest weights
    actual, expected = gram_kernels.correction(h, target), reference.gram_correction(h, target)
    assert relative_error(actual, expected) < STORED_TOLERANCE[dtype]


@needs_compiler
@pytest.mark.parametrize("shape", [FEATURES[i] for i in (1, 2, 5, 7, 8)])
def test_gram_in_tf32(library: ctypes.CDLL, channels_last: bool, shape: tuple[int, ...]) -> None:
    """Features with a 10-bit mantissa are used exactly, all others rounded to nearest."""
    kernels = Kernels(library, tf32=True, channels_last=channels_last)
    h, grad = torch.randn(2, *shape)
    target = torch.randn(shape[0], shape[1], shape[1])
    short_h, short_grad = (x.bfloat16().float() for x in (h, grad))
    assert relative_error(kernels.gram(short_h), reference.gram(short_h)) < 2e-6
    rounded = ((h.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    assert relative_error(kernels.gram(h), reference.gram(rounded)) < 2e-6
    _, dtarget = kernels.backward(short_h, target, short_grad)
    expected = reference.gram_correction_backward(short_h, target, short_grad)[1]
    assert relative_error(dtarget, expected) < 2e-6
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
        assert relative_error(actual, expected) < 2**-10
    if h.numel() > 100:
        assert all(relative_error(*pair) > 1e-5 for pair in pairs)


CHANNELS_LAST = "LayoutE1"  # in a kernel's name


class MachineCode:
    """Sources compiled once for sm_90, as by setup.py, and the messages of ptxas."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compile(self, source: Path) -> tuple[str, Path]:
        with alone(self.folder / source.stem) as folder:
            messages, cubin = folder / "messages.txt", folder / "code.cubin"
            if not messages.exists():
                command = ["nvcc", "-std=c++17", "-O3", "-arch=sm_90", "-Xptxas", "-v"]
                command += [f"-I{TORCH_HEADERS}", "-cubin", str(source), "-o", str(cubin)]
                result = subprocess.run(command, check=True, capture_output=True, text=True)
                messages.write_text(result.stderr)
        return messages.read_text(), cubin

    def registers(self, source: Path) -> list[tuple[str, int]]:
        """The names of kernels and their numbers of registers."""
        used = r"entry function '(\S+)'(?:.*\n)+?.*Used (\d+) registers"
        return [(name, int(n)) for name, n in re.findall(used, self.compile(source)[0])]

    def listing(self, source: Path) -> dict[str, str]:
        """The instructions of every kernel."""
        command = [cuda_tool("cuobjdump"), "-sass", str(self.compile(source)[1])]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        functions = (f.split("\n", 1) for f in listing.split("Function : ")[1:])
        return {name: code for name, code in functions}


@pytest.fixture(scope="module")
def machine_code(shared_folder: Path) -> MachineCode:
    return MachineCode(shared_folder)


@pytest.mark.slow
@pytest.mark.toolchain
@needs_nvcc
@pytest.mark.parametrize("source", EMULATED, ids=lambda path: path.stem)
def test_no_register_spills(machine_code: MachineCode, source: Path) -> None:
    messages, _ = machine_code.compile(source)
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", messages
    )
    assert len(frames) >= 4
    assert set(frames) == {("0", "0", "0")}, messages


def _loops(function: str) -> list[list[str]]:
    """The instructions from target to branch, for each backward branch of a kernel."""
    code = re.findall(r"/\*([0-9a-f]{4,})\*/ +(.+?) *;", function)
    addresses = [int(address, 16) for address, _ in code]
    loops = []
    for i, (_, text) in enumerate(code):
        target = re.search(r"\bBRA\b.* 0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < addresses[i]:
            loops.append([t for _, t in code[addresses.index(int(target[1], 16)) : i + 1]])
    return loops


@pytest.mark.toolchain
@needs_nvcc
@needs_disassembler
def test_machine_code_of_the_matting_step(machine_code: MachineCode) -> None:
    """Three rows per loop, without branches, all in registers, each load long before its use."""
    listing = machine_code.listing(ROOT / "csrc/cuda/matting.cu")
    (function,) = (code for name, code in listing.items() if "step_kernelIfLi3E" in name)
    loop = _loops(function)[-1]
    operations = [re.sub(r"^@\S+ ", "", text).split()[0].split(".")[0] for text in loop]
    count = {name: operations.count(name) for name in ("SHFL", "LDG", "STG", "BRA")}
    # Per row: 2 shuffled copies of each of 6 values and 2 fits of each of 3 channels; loads of
    # image, v, factors, previous and the sum; stores of the result and the sum.
    assert count == {"SHFL": 3 * 18, "LDG": 3 * 18, "STG": 3 * 6, "BRA": 1}
    assert not {"BAR", "LDS", "STS", "LDL", "STL", "BSSY", "CALL"} & set(operations)
    for i, text in enumerate(loop):
        if loaded := re.search(r"\bLDG\S* (R\d+),", text):
            uses = (
                k
                for k, t in enumerate([*loop, *loop][i + 1 :])
                if re.search(rf"\b{loaded[1]}\b", t)
            )
            assert next(uses) > 100, f"{text} is used too early"


@pytest.mark.toolchain
@needs_nvcc
def test_registers_of_the_gram_kernels(machine_code: MachineCode) -> None:
    """Three blocks of four warps per multiprocessor; two for float64 and unaligned rows."""
    used = machine_code.registers(ROOT / "csrc/cuda/gram.cu")
    assert len(used) == 60
    for name, registers in used:
        two = "_kernelId" in name or re.search(r"apply_kernelIfLi\d+ELb0", name)
        four = "apply_tiles_kernel" in name and CHANNELS_LAST not in name
        assert registers <= (255 if two else 128 if four else 168), name


@pytest.mark.toolchain
@needs_nvcc
@needs_disassembler
def test_machine_code_of_the_passes(machine_code: MachineCode) -> None:
    """Four blocks of eight warps per multiprocessor; loads and stores of 16 bytes."""
    source = ROOT / "csrc/cuda/features.cu"
    used = machine_code.registers(source)
    assert len(used) == 4 * 10  # two widths of vectors, or three for half types
    assert all(registers <= 64 for _, registers in used)
    wide = re.compile(r"_kernelI(?:ffLi4|ddLi2|N3c10\w+fLi8)E")
    names = [name for name, _ in used if wide.search(name)]
    assert len(names) == 4 * 4
    listing = machine_code.listing(source)
    for name in names:
        assert not re.search(r"\b(LD|ST|LDL|STL)\.", listing[name]), name
        # x or the gradient, and the gates; one copy of the loop over copies in the padding
        loads, stores = (8, 1) if "halve_k" in name else (5, 4) if "halve" in name else (2, 1)
        assert len(re.findall(r"\bLDG\.E\.128\b", listing[name])) == loads, name
        assert len(re.findall(r"\bSTG\.E\.128\b", listing[name])) == stores, name


@pytest.mark.toolchain
@needs_nvcc
@needs_disassembler
def test_machine_code_of_the_gram_kernels(machine_code: MachineCode) -> None:
    """Tensor cores for half types and TF32 only; copies, loads and stores of 16 bytes."""
    kinds = set()
    for name, code in machine_code.listing(ROOT / "csrc/cuda/gram.cu").items():
        half = re.search(r"(?:product|tiles)_kernelIN.*?(Half|BFloat16)", name) is not None
        tf32 = re.search(r"(?:product|tiles)_kernelIN.*?Tf32", name) is not None
        last = CHANNELS_LAST in name
        assert ("HMMA" in code) == (half or tf32), name
        assert ("HMMA.1688.F32.TF32" in code) == tf32, name
        assert not re.search(r"\b(LD|ST)\.", code), f"{name} has a generic access"
        required: list[str] = []
        if "product_kernel" in name:
            # Waits for the stage that is multiplied, with two more in flight.
            required = ["LDGSTS.E.BYPASS.128", "DEPBAR.LE SB0, 0x2"]
            required += ["HMMA.16816.F32"] if half else [] if tf32 else ["LDS.128"]
            if half or (tf32 and not last):
                required += ["LDSM.16.MT88.4" if last else "LDSM.16.M88.4"]
            elif tf32:  # channels of TF32 are interleaved
                required += ["LDS.64" if "Li16E" in name else "LDS.128"]
        elif "apply_tiles_kernel" in name:
            required = ["LDGSTS.E.BYPASS.128", "DEPBAR.LE SB0, 0x0", "STG.E.EF.128", "LDS.128"]
            if last:
                required += ["STG.E.128"]  # padded results, which the next convolution reads
                required += ["LDSM.16.M88.4"] if half or tf32 else []
            else:
                required += ["LDSM.16.MT88.4"] if half else []
        elif re.search(r"apply_kernel.*ELb1E", name):
            required = ["LDG.E.128", "LDS.128", "STG.E.EF.128"]
        for instruction in required:
            assert instruction in code, f"{name} has no {instruction}"
        kinds.add((half, tf32, *required))
        if re.search(r"apply_kernelIfLi\d+ELb1E", name):
            # 16 loads of pixels and 64 of weights feed 16 x 16 x 4 multiply-adds.
            counts = {"FFMA": 1024, "LDS.128": 64, "LDG.E.128": 16}
            assert {i: len(re.findall(rf"\b{i}\b", code)) for i in counts} == counts
        if "apply_tiles_kernel" in name and half and "Li16E" not in name:
            # Two parts of two fragments of weights, four fragments of pixels: 2 x 2 x 8 products.
            loop = min((loop for loop in _loops(code) if "HMMA" in str(loop)), key=len)
            counts = {"HMMA": 32, "LDSM": 4, "LDS": 4}
            operations = [re.sub(r"^@\S+ ", "", text).split(".")[0] for text in loop]
            assert {i: operations.count(i) for i in counts} == counts, name
            assert len(loop) <= 52, name
        if last and re.search(r"product_kernelIff", name):
            # Two pixels: 2 loads of rows and 2 of columns each for 8 x 8 multiply-adds.
            loop = min((loop for loop in _loops(code) if "FFMA" in str(loop)), key=len)
            operations = [re.sub(r"^@\S+ ", "", text).split()[0].split(".")[0] for text in loop]
            assert (operations.count("FFMA"), operations.count("LDS")) == (128, 8), name
            assert len(loop) <= 145, name
    assert len(kinds) == 13
