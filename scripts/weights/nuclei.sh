#!/usr/bin/env bash
# The bundled nuclei weights: DATA is a folder with dsb2018_train.zip, bbbc039_train.zip, nucls_he/ and he_silver/.
#   scripts/weights/nuclei.sh DATA WORK
set -euo pipefail
data=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
bundled=$here/../../seggeo/models/weights_bundled
mkdir -p "$work"
python "$here/nuclei_data.py" "$data" "$work"
# Every image is zoomed to all sizes of a range, most often to its middle. Each stage starts from the one before; the third
# grows the deep levels, whose new channels are not heard until they have learnt something.
common=(--stretch percent:1,99.8 --batch 4 --crop 256 --epoch 1000)
seggeo train unet "$work/train.csv" -o "$work/first" --steps 1500 --seed 1 --diameter 9,48 "${common[@]}"
seggeo train unet "$work/train.csv" -o "$work/second" --weights "$work/first/model.safetensors" --steps 6400 --diameter 9,48 \
  "${common[@]}"
seggeo train unet "$work/train.csv" -o "$work/third" --weights "$work/second/model.safetensors" --steps "${STEPS:-5500}" \
  --seed 3 --diameter 10,60 --set widths=32,64,160,384 "${common[@]}"
seggeo train unet "$work/train.csv" -o "$work/fourth" --weights "$work/third/model.safetensors" --steps 6000 --rate 1e-3 \
  --seed 4 --diameter 10,60 "${common[@]}"
python "$here/pack.py" "$work/fourth/model.safetensors" "$bundled/nuclei.safetensors" "$here/nuclei.json"
python "$here/measure.py" "$work/train.csv" nuclei "$work/val"
python "$here/measure.py" "$work/test.csv" nuclei "$work/test"
