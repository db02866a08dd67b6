#!/usr/bin/env bash
# Trains the shipped model from nothing: bash configs/pipeline/pocket.sh RUN_FOLDER [GPUS]
# Every command resumes or skips what RUN_FOLDER already holds. The time budgets are made for four GPUs,
# about 24 minutes in all; docs/results/training-log.md says what the shipped weights got.
set -euo pipefail
run=$1 gpus=${2:-1}
distill() { python3 -m distill "$@"; }
distill_on_all() { torchrun --nproc_per_node "$gpus" -m distill "$@"; }
stage() { # NAME SECONDS DATA [--init RUN]
    [ -f "$run/$1/report.json" ] && return
    distill_on_all train "configs/stage/$1.yaml" "time_budget_s=$2" --data "$3" --out "$run/$1" "${@:4}"
}

workers=$(($(nproc) > 8 ? $(nproc) - 4 : $(nproc)))
[ -f "$run/evaluation/manifest.json" ] ||
    distill render configs/data/evaluation.yaml --out "$run/evaluation" --workers 8 --devices "$gpus"
[ -f "$run/clips/manifest.json" ] ||
    distill render configs/data/pocket.yaml --out "$run/clips" --workers "$workers" --devices "$gpus"

stage autoencoder 240.0 "$run/clips"
[ -f "$run/latents/manifest.json" ] ||
    distill_on_all encode "$run/clips" --autoencoder "$run/autoencoder" --out "$run/latents"
stage 0 60.0 "$run/latents"
stage 1 840.0 "$run/latents" --init "$run/0"

[ -f "$run/pocket/model.yaml" ] ||
    distill export configs/export/pocket.yaml --autoencoder "$run/autoencoder" \
        --transformer "$run/1" --out "$run/pocket"
[ -f "$run/evaluation.json" ] ||
    distill evaluate "$run/pocket" --data "$run/evaluation" --out "$run/evaluation.json"
