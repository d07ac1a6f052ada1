#!/usr/bin/env bash
# Builds, tests, measures and sanitizes fastfcs on a bare CUDA machine, in seven minutes.
#
#   benchmarks/run_gpu.sh [FOLDER]                        by default benchmarks/results
#   benchmarks/run_gpu.sh --dry-run [--build] [FOLDER]    without a GPU: checks that every stage starts
#
# Numbers go to FOLDER/<gpu>.json, the output of the stages to FOLDER/run_gpu.tar.gz. The most
# important stages come first. One line per stage reports how it ended, and the exit status is 1 if
# any failed. gpu_env.sh lists the requirements. To time the kernels of an earlier revision too, put
# them into build/former first, as kernel_library.py explains.
set -u
# shellcheck source=benchmarks/gpu_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/gpu_env.sh"
begin 420 "$@"
((dry)) || rm -f "$json" # so that no number of an earlier run remains

# bench NAME LIMIT SCRIPT OPTION...: adds rows to those measured by the preceding stages.
bench() {
  stage "$1" "$2" "$python" "benchmarks/$3.py" --device cuda --json "$json" --add "${@:4}"
}

# The variants compile in the background, during the build and the tests.
((dry)) || timeout 200 nice "$python" benchmarks/kernel_library.py >"$logs/compile.log" 2>&1 &
build 75
stage check 20 "$python" benchmarks/kernels.py 45 46 --check
stage tests 40 "$python" -m pytest -q -k "cuda and not cupy" tests/test_cuda.py tests/test_stylizer.py
bench matting 15 laplacian --methods fastfcs
bench gram 35 gram --methods fastfcs eager --channels 16 32 64 --types float32 float16
bench variants 70 variants

# These sides lead to the narrowest and the widest copies. Every tensor has its own allocation, so
# that an overrun into the next one is detected.
for check in memcheck racecheck; do
  stage $check 25 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $check \
    --error-exitcode 9 "$python" benchmarks/kernels.py 45 46 --check
done
stage cupy 20 "$python" -m pytest -q -k cupy tests/test_cuda.py

# The arrays of these sides do not fit in the L2 cache.
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
