#!/usr/bin/env bash
# Trains the network that ships on a GPU, from a pack, and measures it before and after: six minutes in all.
#
#   benchmarks/train_gpu.sh [--dry-run [--build]] PACK OUT
#
# PACK is made where the pictures are: fastfcs train --content PHOTOS --style PAINTINGS --pairs PAIRS --pack PACK
# OUT gets the weights, a preview and the scores (trained.*), written every half minute, and
# train_gpu.tar.gz with the losses. A build takes what it takes, training all the rest. $OPTIONS replaces
# the options of `fastfcs train` below. The checkpoint, 85 MB, is moved to build/: to continue from it,
# move it back beside the weights and call `fastfcs train` with the same options and more minutes.
set -u
seconds=360 build=110 margin=60 # the last for Python's start, both measurements and the last checkpoint
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
# As the weights that ship were last trained, but for larger batches of larger crops.
read -ra options <<<"${OPTIONS:---size 256 --batch 16 --lr 1e-3 --photoreal 0.3 --structure-weight 2.5}"
((dry)) || rm -f "$folder"/trained.checkpoint.pt # of a run that was cut off: minutes count from its start
stage train "$left" "$python" -m fastfcs train --pack "$pack" -o "$folder/trained.safetensors" \
  --weights universal --minutes "$minutes" --precision bfloat16 --preview-every 100000 --scores 50 "${options[@]}"
[[ ! -e $folder/trained.checkpoint.pt ]] || mv "$folder/trained.checkpoint.pt" build/
finish
