#!/usr/bin/env python3
"""rora's operators in Python, beside PEFT's and transformers' modules in one process.

usage: operators.py LIBRORA_SO. Exits with 77 where torch, PEFT or transformers is missing.
"""

import sys

try:
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

FAILED = []


def expect_near(what, ours, theirs, tolerance):
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    verdict = "ok" if error < tolerance else "FAILED"
    print(f"{verdict:6} {what}: relative error {error:.1e}")
    if not error < tolerance:
        FAILED.append(what)


def leaf(*sizes):
    return torch.randn(*sizes).requires_grad_()


def check_adapters():
    for dora in (False, True):
        for rank in (4, 16):
            host = torch.nn.Sequential(torch.nn.Linear(24, 40))
            config = LoraConfig(r=rank, lora_alpha=8, use_rslora=True, use_dora=dora, target_modules=["0"])
            layer = inject_adapter_in_model(config, host)[0]
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            torch.nn.init.normal_(b)
            magnitude = layer.lora_magnitude_vector["default"].weight if dora else None
            x = leaf(3, 7, 24)
            trained = [x, a, b] + ([magnitude] if dora else [])
            weights = torch.randn(3, 7, 40)
            theirs = layer(x)
            their_gradients = torch.autograd.grad((theirs * weights).sum(), trained)
            ours = torch.ops.rora.low_rank_linear(
                x, layer.base_layer.weight.detach(), layer.base_layer.bias.detach(), a, b, 8 / rank**0.5, 0.0, 0, magnitude)
            our_gradients = torch.autograd.grad((ours * weights).sum(), trained)
            name = f"{'DoRA' if dora else 'RoRA'} rank {rank}"
            expect_near(name, ours, theirs, 1e-5)
            for tensor, mine, other in zip(["x", "A", "B", "magnitude"], our_gradients, their_gradients):
                expect_near(f"{name}, gradient of {tensor}", mine, other, 1e-5)


def check_both(what, ours, theirs, inputs, tolerance=1e-5):
    mine, other = ours(*inputs), theirs(*inputs)
    weights = torch.randn_like(other)
    expect_near(what, mine, other, tolerance)
    my_gradients = torch.autograd.grad((mine * weights).sum(), inputs)
    for i, (a, b) in enumerate(zip(my_gradients, torch.autograd.grad((other * weights).sum(), inputs))):
        expect_near(f"{what}, gradient {i}", a, b, tolerance)


def check_model_operators():
    ops, functional = torch.ops.rora, torch.nn.functional
    norm = LlamaRMSNorm(48, eps=1e-5)
    weight = leaf(48)

    def norm_of_transformers(x, w):
        return torch.func.functional_call(norm, {"weight": w}, (x,))

    check_both("rms_norm", lambda x, w: ops.rms_norm(x, w, 1e-5), norm_of_transformers, [leaf(2, 5, 48), weight])
    check_both("swiglu", ops.swiglu, lambda gate, up: functional.silu(gate) * up, [leaf(3, 50), leaf(3, 50)])
    angles = torch.randn(2, 5, 8).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    check_both(
        "rotary_embedding", lambda x: ops.rotary_embedding(x, cos, sin),
        lambda x: apply_rotary_pos_emb(x, x, cos, sin)[0], [leaf(2, 3, 5, 16)])
    check_both(
        "attention", lambda q, k, v: ops.attention(q, k, v),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        [leaf(2, 6, 70, 32), leaf(2, 2, 70, 32), leaf(2, 2, 70, 32)])
    targets = torch.randint(0, 90, (11,))
    check_both(
        "token_cross_entropy", lambda h, w: ops.token_cross_entropy(h, w, targets),
        lambda h, w: functional.cross_entropy(h @ w.t(), targets, reduction="sum"), [leaf(11, 16), leaf(90, 16)])


def check_meta_shapes():
    x = torch.empty(2, 6, 10, 32, device="meta")
    k = torch.empty(2, 2, 10, 32, device="meta")
    out, normaliser = torch.ops.rora.attention_forward(x, k, k, None)
    shapes = [tuple(out.shape), tuple(normaliser.shape)]
    shapes.append(tuple(torch.ops.rora.low_rank_shrink(torch.empty(5, 8, device="meta"), torch.empty(3, 8, device="meta"), 1.0).shape))
    if shapes != [(2, 6, 10, 32), (2, 6, 10), (5, 3)]:
        FAILED.append(f"Meta shapes {shapes}")


def main():
    torch.manual_seed(0)
    torch.ops.load_library(sys.argv[1])
    check_adapters()
    check_model_operators()
    check_meta_shapes()
    if FAILED:
        sys.exit(f"{len(FAILED)} failed: {'; '.join(FAILED)}")


if __name__ == "__main__":
    main()
