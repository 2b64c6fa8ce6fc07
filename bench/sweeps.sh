#!/usr/bin/env bash
# The comparisons of bench/README.md on SmolLM2-135M, by `rora sweep` on one thread. A sweep that was stopped goes on when
# its command is run again.
#
#     bench/sweeps.sh NAME RORA MODEL DATA OUTPUT
#
# NAME is one of these; OUTPUT/NAME will have the report, and the inputs lie in OUTPUT/data:
#
#     scales       LoRA, RoRA and DoRA at three ranks and four rates, on word problems
#     family       starts, optimisers and AdaLoRA beside RoRA, LoRA and DoRA, at rank 8, on the same
#     pruned       the three at two ranks and rates, on the model without a fifth of its heads and channels
#     commonsense  the three at two ranks, on questions with given answers, judged by likelihood and in the paper's
#                  form: its prompt, merged, a beam of 4
#
# MODEL is the folder of SmolLM2-135M-Instruct, DATA one with LLM-Adapters' records: arithmetic/train.json, test.json;
# commonsense/SET/train.json, test.json.
set -euo pipefail

if (($# != 5)); then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
fi
name=$1 rora=$2 model=$3 data=$4 output=$5
mkdir -p "$output/data"

# Every `step`th record from `start` on.
every() { # FROM START STEP TO
  python3 - "$@" <<'PYTHON'
import json, sys
records = json.load(open(sys.argv[1]))
json.dump(records[int(sys.argv[2])::int(sys.argv[3])], open(sys.argv[4], "w"))
PYTHON
}

arithmetic=("--data=$data/arithmetic/train.json" "--eval-data=$output/data/valid.json"
  "--test-data=$output/data/test.json" --tasks=generation --max-new-tokens=72)
every "$data/arithmetic/test.json" 0 4 "$output/data/valid.json"
every "$data/arithmetic/test.json" 2 4 "$output/data/test.json"

# A rate is chosen by the validation's loss; accuracy is of other problems.
sweep() { # MODEL FLAGS
  "$rora" sweep --model "$1" "${@:2}" --output "$output/$name" --resume --alphas 16 --dtype bfloat16 \
    --threads 1 --batch-size 8 --max-length 256 --warmup-steps 3 --schedule cosine --clip 1
}

case $name in
  scales)
    sweep "$model" "${arithmetic[@]}" --methods lora,rora,dora --ranks 8,32,128 --lrs 3e-4,1e-3,3e-3,1e-2 \
      --seeds 2 --max-steps 30
    ;;
  family)
    sweep "$model" "${arithmetic[@]}" --ranks 8 --lrs 3e-4,1e-3,3e-3 --seeds 2 --max-steps 30 --methods \
      rora,lora,dora,gora,lora-ga,lora-one,pissa,olora,eva,lora-plus,lora-rite,lora-pro,adalora
    ;;
  pruned)
    if [[ ! -e $output/data/pruned/config.json ]]; then
      "$rora" prune --model "$model" --share 0.2 --importance gradient --by-layer \
        --data "$data/arithmetic/train.json" --output "$output/data/pruned"
    fi
    sweep "$output/data/pruned" "${arithmetic[@]}" --methods lora,rora,dora --ranks 8,128 --lrs 1e-3,3e-3 \
      --seeds 1 --max-steps 30 --reference-model "$model"
    ;;
  commonsense)
    train=() tests=()
    for set in boolq ARC-Easy ARC-Challenge openbookqa; do
      train+=("$data/commonsense/$set/train.json")
    done
    for set in boolq ARC-Easy ARC-Challenge openbookqa piqa social_i_qa winogrande; do
      tests+=("$data/commonsense/$set/test.json")
    done
    every "$data/commonsense/ARC-Easy/test.json" 100 32 "$output/data/commonsense_valid.json"
    sweep "$model" --data "${train[@]}" --data-weights 0.25,1,2,0.5 --eval-data "$output/data/commonsense_valid.json" \
      --test-data "${tests[@]}" --limit 12 --tasks choice,generation --beams 4 --max-new-tokens 32 --merge \
      --methods lora,rora,dora --ranks 8,128 --lrs 1e-3 --seeds 1 --max-steps 30 --prompt-format alpaca
    ;;
  *)
    echo "$0: no sweep is called '$name'" >&2
    exit 2
    ;;
esac
