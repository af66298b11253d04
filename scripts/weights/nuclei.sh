#!/usr/bin/env bash
# The bundled nuclei weights: DATA is a folder with dsb2018_train.zip, bbbc039_train.zip, nucls_he/ and he_silver/.
#   scripts/weights/nuclei.sh DATA WORK
set -euo pipefail
data=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
bundled=$here/../../seggeo/models/weights_bundled
mkdir -p "$work"
python "$here/nuclei_data.py" "$data" "$work"
# Sizes of 9 to 48 px: every image is zoomed to all of them. Two stages, so that the second starts warm.
common=(--diameter 9,48 --stretch percent:1,99.8 --batch 4 --crop 256)
seggeo train unet "$work/train.csv" -o "$work/first" --steps 1500 --epoch 1500 --seed 1 "${common[@]}"
seggeo train unet "$work/train.csv" -o "$work/second" --weights "$work/first/model.safetensors" --steps "${STEPS:-6400}" "${common[@]}"
python "$here/pack.py" "$work/second/model.safetensors" "$bundled/nuclei.safetensors" "$here/nuclei.json"
python "$here/measure.py" "$work/train.csv" nuclei "$work/val"
python "$here/measure.py" "$work/test.csv" nuclei "$work/test"
