#!/usr/bin/env bash
# Sweeps over methods, ranks, learning rates and seeds on the model that the repository ships: sweep.sh BUILD OUTPUT
# The model is taught the demo's facts, which nobody could guess, and validated on the same: how well it has learned them
# by heart. Run again it goes on where it was stopped.
set -euo pipefail
build=$1
output=$2
mkdir -p "$output"
"$build/bin/rora_generate_data" facts 3 12 8 > "$output/facts.jsonl"
"$build/bin/rora" sweep --model examples/demo/model --data "$output/facts.jsonl" --eval-data "$output/facts.jsonl" \
  --output "$output" --resume --methods lora,rora,dora --ranks 4,16,64,256 --lrs 1e-3,3e-3,1e-2,3e-2 --seeds 2 --seed 1 \
  --max-steps 120 --warmup-steps 12 --batch-size 32 --eval-every 40
