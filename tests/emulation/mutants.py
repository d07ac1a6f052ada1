"""Faulty versions of the CUDA kernels, each of which a test under emulation must catch.

    python tests/emulation/mutants.py            all of them, some minutes
    python tests/emulation/mutants.py PART...    those whose names contain one of these parts

Every mutant replaces one piece of a source file. The script compiles it, runs the tests of that file
until the first failure and prints which test failed. It fails if a mutant survives, does not compile,
is undecided because its tests take too long, or does not apply. In the last case its text in the
source has changed, and the table below must be updated.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import emulated  # noqa: E402

START = "fork"  # start method of the tests' processes, which then need not import torch
LIMIT = 400  # seconds, after which a mutant is undecided: endless loops, or a busy machine

GRAM = (
    "gram or weights or level or narrowed",
    "test_kernels.py",
    "test_feature_kernels.py",
    "test_large_arrays.py",
)
PASSES = (
    "passes or gates or level or narrowed",
    "test_feature_kernels.py",
    "test_large_arrays.py",
)
MATTING = ("not gram and not weights", "test_kernels.py", "test_large_arrays.py")
OPS = ("", "test_cuda_ops.py")
TESTS = {  # source: an expression for pytest -k, test files
    "cuda/gram.cu": GRAM,
    "cuda/gram_apply.cuh": GRAM,
    "cuda/gram_product.cuh": GRAM,
    "cuda/features.cu": PASSES,
    "cuda/pixel_rows.cuh": PASSES,
    "cuda/tile_copy.cuh": GRAM,
    "cuda/warp_product.h": GRAM,
    "cuda/async_copy.h": GRAM,
    "cuda/matting.cu": MATTING,
    "matting.h": MATTING,
    "cuda/ops.cu": OPS,
}


class Mutant(NamedTuple):
    name: str
    source: str  # below csrc
    text: str  # occurs exactly once in the source
    replacement: str


def mutants(source: str, *table: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(name, source, text, replacement) for name, text, replacement in table]


MUTANTS = [
    *mutants(
        "cuda/tile_copy.cuh",
        (
            "width of the row alone",
            "for (const void* array : arrays) bits |=",
            "for (const void* array : arrays) if (array == nullptr) bits |=",
        ),
        (
            "width ignores the row",
            "size_t bits = row_bytes;",
            "size_t bits = 0 * row_bytes;",
        ),
        (
            "width of eight bytes is taken for sixteen",
            "return bits % 16 == 0 ? 16",
            "return bits % 8 == 0 ? 16",
        ),
        (
            "a copy reads one row too many",
            "row + below < rows && p + right < left",
            "row + below <= rows && p + right < left",
        ),
        (
            "a copy reads one pixel too many",
            "row + below < rows && p + right < left",
            "row + below < rows && p + right <= left",
        ),
        (
            "32-bit offset of a row",
            "from += row * pixels + pixel + p;",
            "from += static_cast<int>(row * pixels + pixel + p);",
        ),
    ),
    *mutants(
        "cuda/gram_product.cuh",
        (
            "32-bit number of a stage's pixel",
            "int64_t next = int64_t{slice} * Tile::kPixels;",
            "int next = slice * Tile::kPixels;",
        ),
        (
            "32-bit batch offset of h",
            "const int64_t element = batch * channels * shape.pixels;",
            "const int element = static_cast<int>(batch * channels * shape.pixels);",
        ),
        (
            "32-bit partial sums",
            "const int64_t size = jobs.side * jobs.side, step = jobs.count() * size;",
            "const int size = jobs.side * jobs.side, step = jobs.count() * size; const int batch = static_cast<int>(matrix % shape.batch);",
        ),
        (
            "product: no barrier before the next copies",
            "__syncthreads();  // all copies of this stage have arrived, and no warp reads the previous one",
            "__syncwarp();",
        ),
        (
            "product: copies before the barrier",
            "    __syncthreads();  // all copies of this stage have arrived, and no warp reads the previous one\n    load(free);       // overwrites the previous stage\n",
            "    load(free);\n    __syncthreads();\n",
        ),
        (
            "product: waits for one group too few, one operand",
            "copy_wait<Tile::kSlots - 2>();",
            "copy_wait<Tile::kSlots - 1>();",
        ),
        (
            "product: waits for one group too few, two operands",
            "copy_wait<Tile::kSlots / 2 - 2>();",
            "copy_wait<Tile::kSlots / 2 - 1>();",
        ),
        (
            "product: no barrier before the sums are stored",
            "  copy_wait<0>();\n  __syncthreads();\n\n  // [pixel group of warps]",
            "  copy_wait<0>();\n\n  // [pixel group of warps]",
        ),
        (
            "product: no barrier after the sums are stored",
            "                           kWarpSide * kWarpSide);\n  __syncthreads();\n",
            "                           kWarpSide * kWarpSide);\n",
        ),
        (
            "product: rows and columns exchanged",
            "const T* const columns = (cross ? g : h)",
            "const T* const columns = (cross ? h : g ? h : h)",
        ),
        (
            "product: a stage is left out",
            "p < shape.pixels; p += stride) {",
            "p + 1 < shape.pixels; p += stride) {",
        ),
        (
            "product: the ring's end is forgotten",
            "return slot + step == kEnd ? 0 : slot + step;",
            "return slot + step >= kEnd ? slot : slot + step;",
        ),
        (
            "product: slice in the place of the batch",
            "const int64_t part = blockIdx.x / jobs.count(), batch = part / jobs.slices;",
            "const int64_t part = blockIdx.x / jobs.count(), batch = part % shape.batch;",
        ),
        (
            "reduce: no barrier in the tree",
            "    __syncthreads();\n    if (thread < half)",
            "    if (thread < half)",
        ),
        (
            "reduce: a slice is lost",
            "for (int s = thread; s < jobs.slices; s += threads) sum += from[s * step];",
            "for (int s = thread; s < jobs.slices - 1; s += threads) sum += from[s * step];",
        ),
        (
            "reduce: half of the tree is lost",
            "for (int half = threads / 2; half > 0; half /= 2)",
            "for (int half = threads / 4; half > 0; half /= 2)",
        ),
        (
            "reduce: one target's stride for all",
            "(shape.targets == 1 ? 0 : batch) * entries + entry",
            "batch * entries + entry",
        ),
        (
            "reduce: the first target for all",
            "(shape.targets == 1 ? 0 : batch) * entries + entry",
            "entry",
        ),
        (
            "reduce: S is taken for symmetric",
            "if (!cross && i > j) {",
            "if (i > j) {",
        ),
        (
            "reduce: S is scaled, too",
            "  if (!cross)\n    sum = sum * scale",
            "  sum = sum * scale",
        ),
        (
            "reduce: entries beyond the matrix are written",
            "if (thread > 0 || entry >= entries) return;",
            "if (thread > 0) return;",
        ),
        (
            "weights: S is not transposed",
            "entry % channels * channels + entry / channels;",
            "entry / channels * channels + entry % channels;",
        ),
        (
            "weights: one block too many writes",
            "if (at >= shape.batch * entries) return;",
            "if (at > shape.batch * entries) return;",
        ),
        (
            "weights: the batch's last gradient is lost",
            "for (int64_t b = 1; b < shape.batch; ++b) sum",
            "for (int64_t b = 1; b < shape.batch - 1; ++b) sum",
        ),
        (
            "weights: gradients of targets that do not exist",
            "if (batch >= shape.targets) return;",
            "if (batch > shape.targets) return;",
        ),
    ),
    *mutants(
        "cuda/gram_apply.cuh",
        (
            "32-bit plane of apply",
            "const int64_t plane = block.batch * channels * shape.pixels;",
            "const int plane = block.batch * channels * shape.pixels;",
        ),
        (
            "32-bit first pixel of apply",
            "const int64_t first = (pixel_tiles - 1 - block.pixel_tile) * kBlockPixels<T, kSide>",
            "const int first = static_cast<int>(pixel_tiles - 1 - block.pixel_tile) * kBlockPixels<T, kSide>",
        ),
        (
            "apply: the transposed flag is ignored",
            "const bool swap = transposed && !term;",
            "const bool swap = false;",
        ),
        (
            "apply: weights beyond the matrix are read",
            "return k < channels && c < channels ?",
            "return k <= channels && c < channels ?",
        ),
        (
            "apply: the second term is forgotten",
            "__device__ int count() const { return g ? 2 : 1; }",
            "__device__ int count() const { return 1; }",
        ),
        (
            "apply: no barrier before the weights change",
            "      __syncthreads();\n      for (int i = threadIdx.x; i < depth * kSide;",
            "      for (int i = threadIdx.x; i < depth * kSide;",
        ),
        (
            "apply: no barrier after the weights",
            "block.c0 + i % kSide);\n      __syncthreads();\n",
            "block.c0 + i % kSide);\n",
        ),
        (
            "apply: the row beyond the last channel is read",
            "if (b < channels - 1 - k0 - k) at += shape.pixels;",
            "if (b < channels - k0 - k) at += shape.pixels;",
        ),
        (
            "apply: pixels that do not exist are read",
            "const int64_t read = inside(0) ? first : shape.pixels - (kAligned ? kPixels : 1);",
            "const int64_t read = first;",
        ),
        (
            "apply: the tail's pixels are read",
            "at[min(q * kStep, last)]",
            "at[max(q * kStep, 0 * last)]",
        ),
        (
            "apply: the tail's pixels are written",
            "if (inside(q)) store_once(to + q * kStep",
            "if (inside(0)) store_once(to + q * kStep",
        ),
        (
            "apply: channels that do not exist are written",
            "if (c0 + c >= channels) break;",
            "if (c0 + c > channels) break;",
        ),
        (
            "tensor apply: no barrier before the next copies",
            "__syncthreads();  // all copies of this step have arrived, and no warp reads the previous one",
            "__syncwarp();",
        ),
        (
            "tensor apply: copies before the barrier",
            "load(slot ^ 1, last ? t - ctas_per_tile : t, last ? 0 : step + 1);",
            "load(slot, last ? t - ctas_per_tile : t, last ? 0 : step + 1);",
        ),
        (
            "tensor apply: no barrier before the results",
            "__syncthreads();  // no warp reads the last step's slot any more: it takes the results",
            "__syncwarp();",
        ),
        (
            "tensor apply: no barrier between a piece and its copy",
            "results);\n    __syncwarp();\n    const int64_t p",
            "results);\n    const int64_t p",
        ),
        (
            "tensor apply: no barrier between pieces",
            "    }\n    __syncwarp();\n  }\n}\n\n// The same for rows of channels",
            "    }\n  }\n}\n\n// The same for rows of channels",
        ),
        (
            "tensor apply: no barrier before the scales",
            "    maxima[threadIdx.x] = largest;\n    __syncthreads();\n",
            "    maxima[threadIdx.x] = largest;\n",
        ),
        (
            "tensor apply: no barrier after the scales",
            "      inverses[threadIdx.x] = scalbnf(1.f, -exponent);\n    }\n    __syncthreads();\n",
            "      inverses[threadIdx.x] = scalbnf(1.f, -exponent);\n    }\n",
        ),
        (
            "tensor apply: no barrier after the weights",
            "        split_weights(step);\n        __syncthreads();\n",
            "        split_weights(step);\n",
        ),
        (
            "tensor apply: the smallest weight for the largest",
            "largest = fmaxf(largest, maxima[t]);",
            "largest = fminf(largest, maxima[t]);",
        ),
        (
            "tensor apply: pixels that do not exist are written",
            "if (p + q < shape.pixels)\n",
            "if (p + q <= shape.pixels)\n",
        ),
        (
            "tensor apply: one row too many is written",
            "const int rows = min(16, channels - block.c0 - c0);",
            "const int rows = min(16, channels - block.c0 - c0 + 1);",
        ),
        (
            "pixel apply: no barrier between a piece and its copy",
            "apply.store(i, scales + warp_c, results);\n    __syncwarp();\n",
            "apply.store(i, scales + warp_c, results);\n",
        ),
        (
            "pixel apply: no barrier between pieces",
            "    __syncwarp();\n    p0 += Apply::kPiecePixels;\n",
            "    p0 += Apply::kPiecePixels;\n",
        ),
        (
            "pixel apply: pixels that do not exist are written",
            "if (p0 + p >= shape.pixels || c0 + c >= shape.channels) continue;",
            "if (p0 + p > shape.pixels || c0 + c >= shape.channels) continue;",
        ),
        (
            "pixel apply: channels that do not exist are written",
            "if (p0 + p >= shape.pixels || c0 + c >= shape.channels) continue;",
            "if (p0 + p >= shape.pixels || c0 + c > shape.channels) continue;",
        ),
        (
            "level: a piece lies in one row",
            "row = result.width ? x / result.width : 0;",
            "row = 0;",
        ),
        (
            "level: the coarse gradient is not gated",
            "sum[v] += gated(enlarged, gates.element[v], slope);",
            "sum[v] += gated(enlarged, gates.element[v], A(1));",
        ),
        (
            "level: coarse rows and columns exchanged",
            "near(rows.second, columns.first), near(rows.second, columns.second)};",
            "near(rows.first, columns.second), near(rows.second, columns.second)};",
        ),
        (
            "level: 32-bit coarse batch offset",
            "coarse + batch * down * across * shape.channels + c;",
            "coarse + static_cast<int>(batch * down * across * shape.channels) + c;",
        ),
        (
            "level: the first matrix is another one's",
            "(shared ? 0 : batch) * channels * channels",
            "(shared ? 0 : 0 * batch) * channels * channels",
        ),
        (
            "tensor apply: a term's weights are rounded once",
            "rounded<T>(w - static_cast<A>(high.element[e]));",
            "T{};",
        ),
    ),
    *mutants(
        "cuda/features.cu",
        (
            "passes: gates may be misaligned",
            "{x.data, by.data, out})",
            "{x.data, out})",
        ),
        (
            "passes: rows may be misaligned",
            "(shape.channels | x.row | x.batch | by.row | by.batch)",
            "(shape.channels | x.batch | by.batch)",
        ),
        (
            "passes: batch elements may be misaligned",
            "(shape.channels | x.row | x.batch | by.row | by.batch)",
            "(shape.channels | x.row | by.row)",
        ),
        (
            "passes: threads beyond the row write",
            "exists = at < in_row.count;",
            "exists = at <= in_row.count;",
        ),
        (
            "passes: the last part of a row is lost",
            "blocks(count / kBlock + (count % kBlock > 0))",
            "blocks(max(count / kBlock, 1u))",
        ),
        (
            "halve: 32-bit number of a pixel",
            "(int64_t{cell.row(i)} * shape.width + cell.column(i))",
            "(cell.row(i) * shape.width + cell.column(i))",
        ),
        (
            "halve: cells cut off at the right are full",
            "columns(min(2, shape.width - x))",
            "columns(2)",
        ),
        (
            "halve: cells cut off below are full",
            "rows(min(2, shape.height - y))",
            "rows(2)",
        ),
        (
            "halve: a cell always has four pixels",
            "return A(1) / static_cast<A>(rows * columns);",
            "return A(1) / static_cast<A>(4);",
        ),
        (
            "halve: the clamped pixels count",
            "      if (cell.has(i))\n        sum[v] +=",
            "      if (cell.has(0 * i))\n        sum[v] +=",
        ),
        (
            "passes: 32-bit batch offset",
            "from.data + site.batch * from.batch +",
            "from.data + static_cast<int>(site.batch * from.batch) +",
        ),
        (
            "passes: 32-bit padded batch offset",
            "return out + site.batch * (height + 2) * (width + 2) * channels + site.c;",
            "return out + static_cast<int>(site.batch * (height + 2) * (width + 2) * channels) + site.c;",
        ),
    ),
    *mutants(
        "cuda/pixel_rows.cuh",
        (
            "gate: zero is positive",
            "static_cast<A>(by) > 0 ?",
            "static_cast<A>(by) >= 0 ?",
        ),
        (
            "copies: none before the first row",
            "first(y > 0 ? y + 1 : 0)",
            "first(y + 1)",
        ),
        (
            "copies: none after the last row",
            "last(y < size - 1 ? y + 1 : size + 1)",
            "last(y < size ? y + 1 : size + 1)",
        ),
        (
            "32-bit padded row",
            "(row * (int64_t{width} + 2) + column)",
            "(row * (width + 2) + column)",
        ),
        (
            "enlarged: corners are aligned",
            "scale * (static_cast<A>(y) + A(0.5)) - A(0.5)",
            "scale * static_cast<A>(y)",
        ),
        (
            "enlarged: pixels before the first count",
            "- A(0.5), A(0));",
            "- A(0.5), A(-1));",
        ),
        (
            "enlarged: a row that does not exist",
            "second = min(first + 1, size - 1);",
            "second = first + 1;",
        ),
    ),
    *mutants(
        "cuda/gram.cu",
        (
            "copy width ignores g",
            "copy_width(row_bytes<T>(shape), {h, g})",
            "copy_width(row_bytes<T>(shape), {h})",
        ),
        (
            "workspace of one type alone",
            "return std::max({elements",
            "return std::min({elements",
        ),
        (
            "copy width ignores h",
            "copy_width(row_bytes<T>(shape), {h, g})",
            "copy_width(row_bytes<T>(shape), {g})",
        ),
        (
            "apply's width ignores out",
            "{operands.f, operands.g, result.out, result.coarse});",
            "{operands.f, operands.g, result.coarse});",
        ),
        (
            "apply's width ignores g",
            "{operands.f, operands.g, result.out, result.coarse});",
            "{operands.f, result.out, result.coarse});",
        ),
        (
            "the width of the other layout's rows",
            "(shape.layout == Layout::channels_first ? shape.pixels : shape.channels)",
            "(shape.layout != Layout::channels_first ? shape.pixels : shape.channels)",
        ),
        (
            "level: heights and widths exchanged",
            "scale(shape.height),",
            "scale(shape.width),",
        ),
        (
            "level: the first matrix for all",
            "false, matrices == 1}",
            "false, matrices >= 1}",
        ),
    ),
    *mutants(
        "cuda/warp_product.h",
        (
            "fused: rows of neighbouring lanes exchanged",
            "b += column_ * kStride + pixel_group_ * kVector;",
            "b += row_ * kStride + pixel_group_ * kVector;",
        ),
        (
            "fused: groups of lanes read the same pixels",
            "a += row_ * kStride + pixel_group_ * kVector;",
            "a += row_ * kStride;",
        ),
        (
            "tensor: b's rows in a's order",
            "b + (j * 16 + lane_ / 16 * 8 + lane_ % 8) * kStride + p +\n                                             lane_ / 8 % 2 * kVector",
            "b + (j * 16 + lane_ % 16) * kStride + p + lane_ / 16 * kVector",
        ),
        (
            "tensor, channels last: a's pixels in b's order",
            "(p + lane_ / 16 * 8 + lane_ % 8) * kStride +\n                                                     i * 16 + lane_ / 8 % 2 * 8",
            "(p + lane_ % 16) * kStride +\n                                                     i * 16 + lane_ / 16 * 8",
        ),
        (
            "tensor, channels last: TF32 sums in the order of half types",
            "return kInterleaved ? i * kColumns + m : m * 8 + i;",
            "return m * 8 + i;",
        ),
        (
            "fused, channels last: groups of lanes read the same pixels",
            "a += pixel_group_ * kStride + row_ * kVector;",
            "a += row_ * kVector;",
        ),
        (
            "pixel apply: the second half of a fragment is the first",
            "multiply(T{}, sum_[i][j], pixels.high, weight.high + j % 2 * 2);",
            "multiply(T{}, sum_[i][j], pixels.high, weight.high);",
        ),
        (
            "pixel apply: one scale for two outputs",
            "sum_[i][j][2 * half + 1] * scales[c + 1]",
            "sum_[i][j][2 * half + 1] * scales[c]",
        ),
        (
            "fused apply: the weights of the fragment's first k's",
            "(k % Fragment::kDepth + e) * 16",
            "e * 16",
        ),
        (
            "tensor: the second half of a fragment is the first",
            "const Word* const high = columns[j / 2].high + j % 2 * 2;",
            "const Word* const high = columns[j / 2].high;",
        ),
        (
            "tensor: sums are not rounded to TF32",
            "high[i] = rounded_to_tf32(value);",
            "high[i] = high[i];",
        ),
        (
            "tensor apply: low weights are high ones",
            "load_words(low + from, to[i].low);",
            "load_words(low ? high + from : low, to[i].low);",
        ),
        (
            "tensor apply: pixels are not transposed",
            "load_matrices_transposed(to.high,",
            "load_matrices(to.high,",
        ),
        (
            "tensor apply: results of the first scale",
            "const float scale = scales[c];",
            "const float scale = scales[0 * c];",
        ),
    ),
    *mutants(
        "cuda/matting.cu",
        (
            "factors: one window too many",
            "if (i >= shape.batch * windows) return;",
            "if (i > shape.batch * windows) return;",
        ),
        (
            "factors: 32-bit number of a window",
            "const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;",
            "const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);",
        ),
        (
            "factors: 32-bit plane",
            "const int64_t plane = int64_t{shape.height} * shape.width;\n  const int64_t i",
            "const int64_t plane = shape.height * shape.width;\n  const int64_t i",
        ),
        (
            "factors: the image's width for the windows'",
            "const int width = shape.width - 2;",
            "const int width = shape.width;",
        ),
        (
            "step: 32-bit plane",
            "const int64_t plane = int64_t{height} * width, windows",
            "const int64_t plane = height * width, windows",
        ),
        (
            "step: 32-bit number of windows",
            "windows = int64_t{height - 2} * (width - 2);\n  const unsigned across",
            "windows = (height - 2) * (width - 2);\n  const unsigned across",
        ),
        (
            "step: 32-bit batch offset",
            "first = int64_t{group} * C * plane;",
            "first = static_cast<int>(group * C * plane);",
        ),
        (
            "step: 32-bit offset of a row",
            "const int64_t at = int64_t{min(max(y, 0), height - 1)} * width;",
            "const int64_t at = min(max(y, 0), height - 1) * width;",
        ),
        (
            "step: the strip ends one row late",
            "bottom = min(top + rows, height);",
            "bottom = min(top + rows + 1, height);",
        ),
        (
            "step: rows below the image are read",
            "int64_t{min(max(y, 0), height - 1)} * width;",
            "int64_t{max(y, 0)} * width;",
        ),
        (
            "step: rows above the image are read",
            "int64_t{min(max(y, 0), height - 1)} * width;",
            "int64_t{min(y, height - 1)} * width;",
        ),
        (
            "step: columns beyond the image are read",
            "const int column = min(max(x, 0), width - 1);",
            "const int column = max(x, 0);",
        ),
        (
            "step: windows below the image are read",
            "int64_t{min(max(y, 0), height - 3)} * (width - 2);",
            "int64_t{max(y, 0)} * (width - 2);",
        ),
        (
            "step: windows count that do not exist",
            "const bool exists = is_window && y >= 0 && y < height - 2;",
            "const bool exists = is_window && y >= 0;",
        ),
        (
            "step: lanes write that only help",
            "const bool is_pixel = lane >= 2 && lane < 2 + kColumns && x < width;",
            "const bool is_pixel = lane >= 1 && lane < 2 + kColumns && x < width;",
        ),
        (
            "step: a strip writes its neighbour's rows",
            "const bool writes = is_pixel && y >= top && y < bottom;",
            "const bool writes = is_pixel && y >= top - 1 && y < bottom;",
        ),
        (
            "step: the sum is always added to",
            "total[c] = update.accumulate ? update.sum[at + c * plane] : T{};",
            "total[c] = update.sum ? update.sum[at + c * plane] : T{};",
        ),
        (
            "step: fits of the wrong lanes",
            "__shfl_up_sync(kAllLanes, fit[1], 1) + __shfl_up_sync(kAllLanes, fit[2], 2);",
            "__shfl_up_sync(kAllLanes, fit[1], 2) + __shfl_up_sync(kAllLanes, fit[2], 1);",
        ),
        (
            "step: two channels taken for three",
            "if (shape.channels % 3 == 0)",
            "if (shape.channels % 2 == 0)",
        ),
        (
            "filter: the result takes the place of what it needs",
            "k < order - 1 ? buffer[k % 2] : nullptr",
            "k < order - 1 ? buffer[(k + 1) % 2] : nullptr",
        ),
        (
            "filter: buffers overlap",
            "buffers + shape.batch * shape.channels * shape.height * shape.width};",
            "buffers + shape.channels * shape.height * shape.width};",
        ),
    ),
    *mutants(
        "cuda/ops.cu",
        (
            "ops: the guard is of device 0",
            "guard(tensor.get_device_index())",
            "guard(0 * tensor.get_device_index())",
        ),
        (
            "ops: the stream is of device 0",
            "aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current)",
            "aoti_torch_get_current_cuda_stream(0 * tensor.get_device_index(), &current)",
        ),
        (
            "ops: the default stream",
            "stream = static_cast<Stream>(current);",
            "stream = nullptr;",
        ),
        (
            "ops: the guard ends at once",
            "  torch::stable::accelerator::DeviceGuard guard;\n",
            "  struct Guard {\n    explicit Guard(int32_t i) { torch::stable::accelerator::DeviceGuard{i}; }\n  } guard;\n",
        ),
        (
            "ops: a missing stream function is called",
            "if (!aoti_torch_get_current_cuda_stream)\n",
            "if (false)\n",
        ),
        (
            "ops: double in the place of float",
            "tensor.scalar_type() == ScalarType::Double ?",
            "tensor.scalar_type() == ScalarType::Float ?",
        ),
        (
            "ops: half types exchanged",
            "case ScalarType::Half: return call(Type<Half>{});",
            "case ScalarType::Half: return call(Type<BFloat16>{});",
        ),
        (
            "ops: TF32 is not asked for",
            "return tf32 ? call(Type<Tf32>{}) : call(Type<float>{});",
            "return tf32 ? call(Type<float>{}) : call(Type<float>{});",
        ),
        (
            "ops: TF32 without being asked for",
            "return tf32 ? call(Type<Tf32>{}) : call(Type<float>{});",
            "return tf32 ? call(Type<Tf32>{}) : call(Type<Tf32>{});",
        ),
        (
            "ops: strided coefficients",
            "c = torch::stable::contiguous(coefficients),",
            "c = coefficients,",
        ),
        (
            "ops: a strided target",
            "targets = torch::stable::contiguous(target),\n               result",
            "targets = target,\n               result",
        ),
        (
            "ops: a strided gradient",
            "gradient = with_layout(grad, shape.layout),",
            "gradient = grad,",
        ),
        (
            "ops: the number of targets is the batch",
            "  check_grad(h, grad);\n  const DeviceScope scope(h);\n  const GramShape shape = gram_shape(h, target.size(0));",
            "  check_grad(h, grad);\n  const DeviceScope scope(h);\n  const GramShape shape = gram_shape(h, h.size(0));",
        ),
        (
            "ops: no gradient of no batch",
            "if (h.size(0) == 0) torch::stable::zero_(dtarget);",
            "if (h.size(0) == 0) torch::stable::fill_(dtarget, 1);",
        ),
        (
            "ops: every layout is torch's default",
            "h.is_contiguous() || h.stride(1) != 1 ? Layout::channels_first : Layout::channels_last",
            "h.is_contiguous() || h.stride(1) != 1 ? Layout::channels_first : Layout::channels_first",
        ),
        (
            "ops: features of any layout",
            "with_layout(h, Layout::channels_last)",
            "h",
        ),
        (
            "ops: coarse features of any layout",
            "if (coarse) coarse = with_layout(*coarse, Layout::channels_last);",
            "",
        ),
        (
            "ops: rows are adjacent",
            "tensor.stride(2), tensor.stride(0)}",
            "tensor.size(3) * tensor.size(1), tensor.stride(0)}",
        ),
        (
            "ops: batch elements are adjacent",
            "tensor.stride(2), tensor.stride(0)}",
            "tensor.stride(2), tensor.size(2) * tensor.stride(2)}",
        ),
        (
            "ops: gates of any layout",
            "gates = as_pixel_rows(by),",
            "gates = by,",
        ),
        (
            "ops: a grad of any shape",
            "  check_grad(h, grad);\n",
            "",
        ),
    ),
]


class FirstFailure:
    """A pytest plugin that records the first failing test."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.name = self.name or report.nodeid.rpartition("/")[2]


def run_tests(built: Path, tests: tuple[str, ...], answer: multiprocessing.SimpleQueue) -> None:
    """Runs tests with the emulation in `built`, in a process of its own."""
    emulated.build = lambda folder: shutil.copytree(built, folder, dirs_exist_ok=True)
    selection, *files = tests
    failure = FirstFailure()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-k", selection, f"--rootdir={ROOT}"]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main([*options, *(str(ROOT / "tests" / file) for file in files)], [failure])
    answer.put(failure.name)


def verdict(mutant: Mutant, original: Path, built: Path) -> str:
    """Builds a mutant's emulation in `built`, runs its tests and returns the result."""
    source = built / "csrc" / mutant.source
    shutil.copytree(original, built)
    text = source.read_text()
    if text.count(mutant.text) != 1:
        return "DOES NOT APPLY"
    source.write_text(text.replace(mutant.text, mutant.replacement))
    try:
        emulated.compile(built)
    except RuntimeError as error:
        return f"DOES NOT COMPILE: {error}"
    return outcome(built, TESTS[mutant.source])


def outcome(built: Path, tests: tuple[str, ...]) -> str:
    """The result of tests with the emulation in `built`."""
    context = multiprocessing.get_context(START)
    answer = context.SimpleQueue()
    process = context.Process(target=run_tests, args=(built, tests, answer))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        return f"UNDECIDED: its tests do not end within {LIMIT} s"
    if process.exitcode != 0 or answer.empty():
        return f"killed: its tests end with {process.exitcode}"
    failed = answer.get()
    return f"killed by {failed}" if failed else "SURVIVES"


def main(parts: list[str]) -> int:
    chosen = [m for m in MUTANTS if not parts or any(part in m.name for part in parts)]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder, "original")
        emulated.build(original)
        for mutant in chosen:
            start = time.perf_counter()
            built = Path(folder, "mutant")
            answer = verdict(mutant, original, built)
            shutil.rmtree(built)
            wrong += not answer.startswith("killed")
            seconds = time.perf_counter() - start
            print(f"{mutant.source}: {mutant.name}: {answer} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen)} mutants, {len(chosen) - wrong} of them killed")
    return wrong > 0 or not chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
