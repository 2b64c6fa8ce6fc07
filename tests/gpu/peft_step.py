#!/usr/bin/env python3
"""A training step of PEFT on a LLaMA of random weights: what gpu_step prints of rora, by the same flags where both have
them. Forward, loss, backward, clipping and AdamW; one JSON line."""

import argparse
import functools
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from transformers import LlamaConfig, LlamaForCausalLM

from linears import HandWritten

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def by_hand(module, x):
    """A LoRA layer's forward as addmm calls, without dropout."""
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    y = HandWritten.apply(x.flatten(0, -2), module.base_layer.weight, a, b, module.scaling["default"])
    return y.unflatten(0, x.shape[:-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("hidden", 64), ("intermediate", 160), ("layers", 2), ("heads", 4), ("kv-heads", 2),
                          ("vocab", 96), ("batch", 4), ("seq", 64), ("rank", 8), ("steps", 5), ("warmup", 1),
                          ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--short-adapters", action="store_true", help="in the base's dtype; PEFT's default is float32")
    parser.add_argument("--hand-written", action="store_true", help="its layers replaced by addmm calls")
    arguments = parser.parse_args()
    if arguments.hand_written and (arguments.dropout or arguments.dora):
        parser.error("--hand-written takes neither dropout nor DoRA")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    torch.manual_seed(0)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    config = LlamaConfig(
        hidden_size=arguments.hidden, intermediate_size=arguments.intermediate, num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads, num_key_value_heads=arguments.kv_heads, vocab_size=arguments.vocab,
        max_position_embeddings=max(2048, arguments.seq), use_cache=False, attn_implementation="sdpa",
        pad_token_id=None, bos_token_id=None, eos_token_id=None)
    torch.set_default_dtype(dtype)
    with device:
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model = get_peft_model(
        model, LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, use_rslora=True, use_dora=arguments.dora,
                          lora_dropout=arguments.dropout, target_modules=PROJECTIONS),
        autocast_adapter_dtype=not (arguments.short_adapters or arguments.hand_written)).to(device).train()
    if arguments.hand_written:
        for module in model.modules():
            if isinstance(module, lora.Linear):
                module.forward = functools.partial(by_hand, module)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.lr, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if arguments.compile else model
    ids = torch.randint(arguments.vocab, (arguments.batch, arguments.seq), device=device)

    def synchronize():
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # what making the model took does not count
    seconds = []
    for step in range(arguments.warmup + arguments.steps):
        synchronize()
        begin = time.perf_counter()
        loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # behind the step, as rora reads it: nothing waits before
        synchronize()
        if step >= arguments.warmup:
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({
        "step_s": statistics.median(seconds), "seconds": seconds, "loss": value,
        "trained": sum(p.numel() for p in trained),
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None}))


if __name__ == "__main__":
    main()
