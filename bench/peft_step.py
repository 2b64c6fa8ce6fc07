#!/usr/bin/env python3
"""Time one optimisation step of Hugging Face PEFT on a LLaMA folder: what `rora bench` prints of rora.

Prints one JSON line: median seconds a step (forward, backward, AdamW), peak resident memory in MiB, and the setting.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--scaling", choices=["rank-stabilized", "standard"], default="rank-stabilized")
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--labelled", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    if arguments.frozen:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.enable_input_require_grads()
    else:
        config = LoraConfig(
            r=arguments.rank,
            lora_alpha=2 * arguments.rank,
            use_rslora=arguments.scaling == "rank-stabilized",
            use_dora=arguments.dora,
            target_modules=PROJECTIONS,
        )
        model = get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0) if trained else None
    step_model = torch.compile(model) if arguments.compile else model
    ids = torch.randint(3, model.config.vocab_size, (arguments.batch, arguments.seq))
    labels = ids.clone()
    labels[:, : int(arguments.seq * (1 - arguments.labelled))] = -100

    seconds = []
    for step in range(arguments.steps + 1):
        begin = time.perf_counter()
        loss = step_model(input_ids=ids, labels=labels).loss
        loss.backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step > 0:
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({
        "peer": "peft",
        "step_s": round(statistics.median(seconds), 4),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "loss": round(loss.item(), 4),
    }))


if __name__ == "__main__":
    main()
