#!/usr/bin/env bash
# Builds fastfcs on a bare CUDA machine, tests it, measures it and sanitizes it, in under nine minutes.
#
#   benchmarks/run_gpu.sh [FOLDER]      by default benchmarks/results
#
# Wants Linux with an NVIDIA driver, nvcc and python3 (3.10 or newer, with venv). An installed torch
# with CUDA is used; where there is none, pip gets one. Numbers go to FOLDER/<gpu>.json, what each
# part said to FOLDER/run_gpu/<part>.log. A part that fails does not stop the next ones; the last
# lines say how each ended, and the exit status is 1 if any failed.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(realpath -m "${1:-$root/benchmarks/results}")
cd "$root" || exit 2

stop() {
  echo "run_gpu.sh: $1" >&2
  exit 2
}

export PATH="${CUDA_HOME:+$CUDA_HOME/bin:}$PATH:/usr/local/cuda/bin"
nvidia-smi -L >/dev/null 2>&1 || stop "nvidia-smi finds no GPU here, so nothing was done."
command -v nvcc >/dev/null || stop "nvcc is neither in CUDA_HOME, on the PATH nor in /usr/local/cuda."
python3 -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  stop "python3 must be 3.10 or newer and have venv."

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | tr 'A-Z ' 'a-z-')
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0)
logs=$folder/run_gpu
json=$folder/$gpu.json
python=$root/build/gpu/bin/python
mkdir -p "$logs"
: >"$logs/summary.txt"
failed=0
end=$((SECONDS + 530))

say() { printf '%-12s %s\n' "$1" "$2" | tee -a "$logs/summary.txt"; }

# part NAME SECONDS COMMAND...: interrupted at its limit, or when all time is spent.
part() {
  local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS status
  shift 2
  if ((left < 5)); then
    say "$name" "FAILED: no time was left for it"
    failed=1
    return
  fi
  timeout -s INT -k 20 $((limit < left ? limit : left)) "$@" >"$logs/$name.log" 2>&1
  status=$?
  case $status in
    0) say "$name" "ok, $((SECONDS - start)) s" ;;
    124 | 137) say "$name" "FAILED: stopped after $((SECONDS - start)) s" ;;
    *) say "$name" "FAILED with status $status after $((SECONDS - start)) s: $logs/$name.log" ;;
  esac
  ((status == 0)) || failed=1
}

# tool COMMAND NAME ...: a part that needs a tool of the CUDA toolkit.
tool() {
  if command -v "$1" >/dev/null; then part "${@:2}"; else say "$2" "not run: $1 was not found"; fi
}

# shellcheck disable=SC2329  # called by bash -c, below
build() {
  set -e
  local with=(python3 -m venv --clear --system-site-packages)
  "${with[@]}" build/gpu || "${with[@]}" --without-pip build/gpu
  # Where python3 is a virtual environment itself, one made from it would not see its packages.
  local where='import sysconfig; print(sysconfig.get_path("purelib"))'
  echo "import site; site.addsitedir('$(python3 -c "$where")')" >"$("$python" -c "$where")/outer.pth"
  "$python" -m pip install --quiet 'setuptools>=77' 'pybind11>=2.13' ninja
  "$python" - <<'CODE' || "$python" -m pip install --quiet torch
import sys, torch
version = tuple(int(number) for number in torch.__version__.split(".")[:2])
sys.exit(not torch.version.cuda or version < (2, 10))
CODE
  "$python" -m pip install --quiet --no-build-isolation --no-deps -e .
  "$python" -c 'import torch; from fastfcs import _C; print(torch.cuda.get_device_name(), _C.build_info())'
}

# What tests and comparisons need, as far as it is to be had: each alternative that is missing is
# named by its benchmark.
# shellcheck disable=SC2329
extras() {
  local needed pip=("$python" -m pip install --quiet --retries 0 --timeout 10)
  mapfile -t needed < <("$python" - <<'CODE'
from importlib.metadata import requires
import torch
print(*(each.split(";")[0] for each in requires("fastfcs") if "fastfcs[" not in each), sep="\n")
print(f"cupy-cuda{torch.version.cuda.split('.')[0]}x")
CODE
  )
  "${pip[@]}" "${needed[@]}" || for each in "${needed[@]}"; do "${pip[@]}" "$each" || echo "no $each"; done
}

export FASTFCS_CUDA=1 TORCH_CUDA_ARCH_LIST=$architecture PYTHONWARNINGS=ignore
export -f build extras
export python

part build 240 bash -c build
part extras 60 bash -c extras
part tests 120 "$python" -m pytest -q tests/test_cuda.py tests/test_ops.py tests/test_stylizer.py
part laplacian 90 "$python" benchmarks/laplacian.py --device cuda --json "$json"
part stylizer 45 "$python" benchmarks/stylizer.py --device cuda --json "$json"

# Sides with the narrowest and the widest copies. Every tensor in its own allocation, so that one
# cannot be overrun into the next unseen.
for check in memcheck initcheck racecheck; do
  tool compute-sanitizer "$check" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$check" --error-exitcode 9 "$python" benchmarks/kernels.py 45 46 --check
done
metrics=gpu__time_duration.sum,dram__bytes.sum,launch__registers_per_thread
metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,sm__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active
tool ncu ncu 60 ncu --clock-control none --metrics "$metrics" --csv --page raw \
  "$python" benchmarks/kernels.py 512

# Last, for it takes what time is left; it begins with what matters most.
part gram 240 "$python" benchmarks/gram.py --device cuda --json "$json"

echo "Numbers: $json. Everything else: $logs."
exit $failed
