#!/usr/bin/env bash
# Builds fastfcs on a bare CUDA machine, tests it, measures it and sanitizes it, in seven minutes.
#
#   benchmarks/run_gpu.sh [FOLDER]                        by default benchmarks/results
#   benchmarks/run_gpu.sh --dry-run [--build] [FOLDER]    without a GPU: does every stage start?
#
# Numbers go to FOLDER/<gpu>.json, what the stages said to FOLDER/run_gpu.tar.gz. What matters most
# comes first; the last lines say how each stage ended, and the exit status is 1 if any failed. What
# the machine must have is in gpu_env.sh. To time an earlier state's kernels beside these, put them
# into build/former first: kernel_library.py says how.
set -u
# shellcheck source=benchmarks/gpu_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/gpu_env.sh"
begin 420 "$@"
((dry)) || rm -f "$json" # so that no number of another day stays

# bench NAME LIMIT SCRIPT OPTION...: rows are added to what the stages before it measured.
bench() {
  stage "$1" "$2" "$python" "benchmarks/$3.py" --device cuda --json "$json" --add "${@:4}"
}

# The variants compile beside the build and the tests.
((dry)) || timeout 200 nice "$python" benchmarks/kernel_library.py >"$logs/compile.log" 2>&1 &
build 75
stage check 20 "$python" benchmarks/kernels.py 45 46 --check
stage tests 40 "$python" -m pytest -q -k "cuda and not cupy" tests/test_cuda.py tests/test_stylizer.py
bench matting 15 laplacian --methods fastfcs
bench gram 35 gram --methods fastfcs eager --channels 16 32 64 --types float32 float16
bench variants 70 variants

# Sides with the narrowest and the widest copies. Every tensor in its own allocation, so that one
# cannot be overrun into the next unseen.
for check in memcheck racecheck; do
  stage $check 25 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $check \
    --error-exitcode 9 "$python" benchmarks/kernels.py 45 46 --check
done
stage cupy 20 "$python" -m pytest -q -k cupy tests/test_cuda.py

# Sides whose arrays do not fit in the L2 cache.
profile=(ncu --clock-control none --kernel-name
  'regex:^(factors|step|product|reduce|backward_weights|apply).*_kernel$')
for section in SpeedOfLight MemoryWorkloadAnalysis SchedulerStats WarpStateStats Occupancy LaunchStats; do
  profile+=(--section "$section")
done
stage ncu-matting 12 "${profile[@]}" "$python" benchmarks/kernels.py 2048 --operators matting --channels 3
stage ncu-gram 15 "${profile[@]}" "$python" benchmarks/kernels.py 1024 --operators gram --channels 16 64

bench stylizer 25 stylizer
bench cusparse 13 laplacian --methods CSR --sizes 1 4
bench alternatives 25 gram --methods compile triton --channels 16 32 64 --types float32 float16 \
  --sizes 1048576 4194304
bench rest - gram
finish
