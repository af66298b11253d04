#!/usr/bin/env bash
# The bundled overhead weights: DATA is a folder with banepa/ and kampala/.
#   scripts/weights/overhead.sh DATA WORK
set -euo pipefail
data=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
bundled=$here/../../seggeo/models/weights_bundled
mkdir -p "$work"
python "$here/overhead_data.py" "$data" "$work"
common=(--gsd 0.3 --zoom 0.55,1.6 --batch 4 --crop 256)
seggeo train unet "$work/train.csv" -o "$work/first" --steps 750 --epoch 750 --seed 1 "${common[@]}"
seggeo train unet "$work/train.csv" -o "$work/second" --weights "$work/first/model.safetensors" --steps "${STEPS:-2200}" "${common[@]}"
seggeo train unet "$work/train.csv" -o "$work/third" --weights "$work/second/model.safetensors" --steps 1080 --rate 0.001 "${common[@]}" --zoom 0.5,1.4
python "$here/pack.py" "$work/third/model.safetensors" "$bundled/overhead.safetensors" "$here/overhead.json"
python "$here/measure.py" "$work/train.csv" overhead "$work/val"
python "$here/measure.py" "$work/test.csv" overhead "$work/test"
