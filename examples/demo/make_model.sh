#!/usr/bin/env bash
# Makes the model that the repository ships: make_model.sh BUILD_FOLDER OUTPUT_FOLDER
# Stories of the tiny world from seed 1, a sentencepiece tokenizer of them, and a LLaMA pre-trained on them. It takes a few
# minutes on two cores; the same machine, build and thread count give the same bytes.
set -euo pipefail
build=$(cd "$1" && pwd)
output=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stories=$(mktemp --suffix .jsonl)
trap 'rm -f "$stories"' EXIT

"$build/bin/rora_generate_data" stories 1 20000 > "$stories"
"$build/bin/rora" pretrain --data "$stories" --model-config "$here/model_config.json" --train-tokenizer 512 \
  --output "$output" --packing --max-length 128 --batch-size 16 --max-steps 600 --lr 3e-3 --warmup-steps 30 \
  --weight-decay 0.01 --seed 7 --threads 2
