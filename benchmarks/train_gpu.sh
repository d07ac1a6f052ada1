#!/usr/bin/env bash
# Trains the shipped network further on a GPU, from a pack, and evaluates it before and after, in six minutes.
#
#   benchmarks/train_gpu.sh [--dry-run [--build]] PACK OUT
#
# Make PACK where the pictures are: fastfcs train --content PHOTOS --style PAINTINGS --pairs PAIRS --pack PACK
# OUT receives the weights, a preview and the scores (trained.*), written every half minute, and
# train_gpu.tar.gz with the losses. Training takes all the time that the build leaves. $OPTIONS replaces
# the options of `fastfcs train` below. The checkpoint, 85 MB, is moved to build/. To continue from it,
# move it back next to the weights and call `fastfcs train` with the same options and more minutes.
set -u
seconds=360 build=110 margin=60 # margin: start of Python, both evaluations, the last checkpoint
words=() pack=
for word; do
  if [[ $word != -* && -z $pack ]]; then pack=$(realpath -m "$word"); else words+=("$word"); fi
done
# shellcheck source=benchmarks/gpu_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/gpu_env.sh"
[[ -n $pack && ${words[*]-} =~ (^| )[^-] ]] || stop "a pack and a folder for the results are expected."
[[ -r $pack ]] || stop "$pack cannot be read."

begin $seconds "${words[@]}"
build $build
((dry)) && left=$((seconds - build)) || left=$((end - SECONDS))
minutes=$(awk "BEGIN { print ($left > $margin + 6 ? $left - $margin : 6) / 60 }")
# The last training of the shipped weights used the same options, with smaller batches and crops.
read -ra options <<<"${OPTIONS:---size 256 --batch 16 --lr 1e-3 --photoreal 0.3 --structure-weight 2.5}"
((dry)) || rm -f "$folder"/trained.checkpoint.pt # of an interrupted run, from whose start minutes would count
stage train "$left" "$python" -m fastfcs train --pack "$pack" -o "$folder/trained.safetensors" --force \
  --weights universal --minutes "$minutes" --precision bfloat16 --preview-every 100000 --scores 50 "${options[@]}"
[[ ! -e $folder/trained.checkpoint.pt ]] || mv "$folder/trained.checkpoint.pt" build/
finish
