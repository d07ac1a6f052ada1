# shellcheck shell=bash
# Functions shared by run_gpu.sh and train_gpu.sh, which source this file and call, in this order:
#
#   begin SECONDS "$@"            parses [--dry-run [--build]] [FOLDER], by default benchmarks/results,
#                                 and checks the machine. From here on the working directory is the
#                                 repository's root, and everything ends within SECONDS.
#   build LIMIT                   builds fastfcs in place, only for the architecture of this GPU
#   stage NAME LIMIT COMMAND...   runs a command for at most LIMIT seconds; - means all that are left.
#                                 A Python command is written "$python" FILE.py|-m MODULE ...
#   finish                        prints where the results are; exits with 1 if any stage failed
#
# Variables that it sets: $root, the repository; $python; $folder, for results; $gpu, the GPU's name
# such as nvidia-h100-80gb-hbm3; $json, which is $folder/$gpu.json; $dry, 1 in a dry run, else 0.
#
# Nothing is downloaded: python3 (or $PYTHON) must have torch with CUDA and the packages that fastfcs
# needs. Pure Python wheels in build/wheels, if any, take precedence over its own packages. Nothing is
# installed: fastfcs and those wheels are found through PYTHONPATH.
#
# A stage is interrupted (SIGINT) at its limit, or 10 s before the total time is up, and killed 10 s
# later. If a stage fails, the next one still runs. A stage whose tool or Python module is not
# installed is skipped, which is not a failure. The output of the stages is in
# $folder/<script>.tar.gz, which is rewritten after every stage.
#
# --dry-run needs no GPU, no nvcc and no nvidia-smi. It uses fastfcs as it is built here, or builds it
# first if --build is given. "$python" FILE.py gets the option --dry-run, with which a benchmark
# parses its options, imports its modules and exits. "$python" -m pytest gets --collect-only, and any
# other module --help, with which click still rejects unknown options. Of programs that precede
# "$python", such as ncu, only the presence is checked. A dry run also fails if the limits add up to
# more than SECONDS.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=$(basename "$0" .sh)
dry=0 build_too=0 failed=0 limits=0 folder='' stages=()
declare -A seen first  # dry run: the first stage with a command; the stage that tries a stage's command

stop() {
  echo "$script.sh: $1" >&2
  exit 2
}

say() {
  printf '%-12s %s\n' "$1" "$2" | tee -a "$logs/summary.txt"
}

begin() {
  seconds=$1
  end=$((SECONDS + seconds))
  shift
  local word
  for word; do
    case $word in
      --dry-run) dry=1 ;;
      --build) build_too=1 ;;
      -*) stop "$word is not an option; they are --dry-run and --dry-run --build." ;;
      *)
        [[ -z $folder ]] || stop "one folder is expected, got $folder and $word."
        folder=$word
        ;;
    esac
  done
  ((dry || !build_too)) || stop "--build is for --dry-run; without it, the build comes first anyway."
  folder=$(realpath -m "${folder:-$root/benchmarks/results}")
  cd "$root" || exit 2

  export PATH="${CUDA_HOME:+$CUDA_HOME/bin:}$PATH:/usr/local/cuda/bin"
  python=$(command -v "${PYTHON:-python3}") || stop "${PYTHON:-python3} was not found."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop "Python 3.10 or newer is needed."
  if ((dry)); then
    gpu=dry-run architecture=${TORCH_CUDA_ARCH_LIST:-9.0}
  else
    nvidia-smi -L >/dev/null 2>&1 || stop "nvidia-smi finds no GPU here, so nothing was done."
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | tr 'A-Z ' 'a-z-')
    architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0)
  fi
  if ((!dry || build_too)); then
    command -v nvcc >/dev/null || stop "nvcc is neither in CUDA_HOME, on the PATH nor in /usr/local/cuda."
  fi

  export PYTHONPATH=$root:$root/build/wheels/unpacked${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=ignore PIP_NO_INDEX=1
  export FASTFCS_CUDA=1 TORCH_CUDA_ARCH_LIST=$architecture python
  rm -rf build/wheels/unpacked
  local wheel
  for wheel in build/wheels/*.whl; do
    [[ ! -e $wheel ]] || "$python" -m zipfile -e "$wheel" build/wheels/unpacked || stop "$wheel is not a wheel."
  done
  ((dry && !build_too)) || needed

  # shellcheck disable=SC2034  # for the scripts that source this file
  json=$folder/$gpu.json
  logs=$root/build/$script
  ((!dry)) || logs+=-dry-run
  rm -rf "$logs"
  mkdir -p "$logs"
  ((dry)) || mkdir -p "$folder"
}

# Stops with one sentence if python lacks anything that the build or the package needs.
needed() {
  local lacks
  lacks=$("$python" - <<'CODE'
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path

needed = "torch numpy pillow safetensors click rich setuptools pybind11 ninja".split()
lacks = [name for name in needed if find_spec({"pillow": "PIL"}.get(name, name)) is None]
if not Path(get_path("include"), "Python.h").exists():
    lacks.append("its header Python.h")
if "setuptools" not in lacks and int(version("setuptools").split(".")[0]) < 77:
    lacks.append("setuptools 77 or newer")
if "torch" not in lacks:
    import torch

    if torch.version.cuda is None or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10):
        lacks.append("torch 2.10 or newer with CUDA")
print(*lacks, sep=", ")
CODE
  ) || stop "$python cannot tell what is installed."
  [[ -z $lacks ]] || stop "$python lacks $lacks; nothing is fetched here, but wheels in build/wheels are used."
}

build() {
  if ((dry && !build_too)); then
    limits=$((limits + $1))
    return
  fi
  # In this Python, not in a virtual environment, whose setuptools might be too old.
  # shellcheck disable=SC2016  # expanded by the inner bash
  stage build "$1" bash -c '"$python" setup.py -q egg_info build_ext --inplace &&
    "$python" -c "from fastfcs import _C; print(_C.build_info())"'
}

# The program that a command runs: its first word that is neither `env` nor an assignment A=B.
program() {
  local word
  for word; do
    case $word in env | *=*) ;; *) echo "$word" && return ;; esac
  done
}

stage() {
  local name=$1 limit=$2 start=$SECONDS status left words module
  shift 2
  words="$*"
  [[ $limit != - ]] || limit=0
  limits=$((limits + limit))
  if ! command -v "$(program "$@")" >/dev/null; then
    say "$name" "not run: $(program "$@") was not found"
    ((dry)) || return
  fi
  module=${words#*"$python -m "}
  if [[ $module != "$words" ]] && ! "$python" -c "import ${module%% *}" 2>/dev/null; then
    say "$name" "not run: ${module%% *} is not installed"
    return
  fi
  if ((dry)) && [[ $name != build ]]; then
    rehearse "$name" "$@"
    return
  fi
  left=$((end - SECONDS - 10))
  ((!dry)) || limit=600 left=600 # for the build, which may have few cores
  if ((left < 2)); then
    say "$name" "FAILED: no time was left for it"
    failed=1
    return
  fi
  timeout -s INT -k 10 $((limit && limit < left ? limit : left)) "$@" >"$logs/$name.log" 2>&1
  status=$?
  verdict "$name" "$status" "$((SECONDS - start)) s"
  ((dry)) || tar -czf "$folder/$script.tar.gz" -C "$logs" .
}

# verdict NAME STATUS AFTER [LOG]: LOG is the stage whose output ends with the reason of a failure.
verdict() {
  case $2 in
    0) say "$1" "ok, $3" ;;
    124 | 137) say "$1" "FAILED: stopped after $3" ;;
    *) say "$1" "FAILED with status $2, $3: $(grep -v '^ *$' "$logs/${4-$1}.log" | tail -n 1)" ;;
  esac
  (($2 == 0)) || failed=1
}

# Starts a stage's command in the background, each distinct command once and at most one per core.
# `finish` prints the verdicts in the order of the stages.
rehearse() {
  local name=$1
  shift
  while (($#)) && [[ $1 != "$python" ]]; do shift; done
  (($#)) || return
  case "$2 ${3-}" in
    "-m pytest") set -- "$@" --collect-only -q ;;
    "-m "*) set -- "$@" --help ;;
    *) set -- "$@" --dry-run ;;
  esac
  stages+=("$name")
  first[$name]=${seen["$*"]-$name}
  [[ -z ${seen["$*"]-} ]] || return
  seen["$*"]=$name
  while (($(jobs -pr | wc -l) >= $(nproc))); do wait -n; done
  {
    timeout -k 1 60 "$@" >"$logs/$name.log" 2>&1
    echo $? >"$logs/$name.status"
  } &
}

finish() {
  local name
  wait
  for name in "${stages[@]}"; do
    verdict "$name" "$(cat "$logs/${first[$name]}.status" || echo 1)" "dry run" "${first[$name]}"
  done
  if ((limits > seconds)); then
    say limits "FAILED: they add up to $limits s, more than $seconds"
    failed=1
  fi
  if ((dry)); then
    echo "Nothing was measured. What the stages said: $logs."
  else
    tar -czf "$folder/$script.tar.gz" -C "$logs" .
    echo "Results: $folder. What the stages said: $folder/$script.tar.gz."
  fi
  exit "$failed"
}
