#!/usr/bin/env python3
"""Check that PEFT and transformers read what rora writes, and compute what rora computes.

usage: python3 check.py BUILD_FOLDER      (needs torch, transformers and peft)

The build's rora_write_folders writes adapters and models, with its own logits, into a temporary folder, and its binary
fine-tunes, merges and prunes, and combines and converts adapters. Warnings count as errors, but for transformers' own
notice on `is_gradient_checkpointing`.
Exits with 1 where a check fails, and with 77 where Python lacks one of the packages.
"""

import contextlib
import copy
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import warnings

try:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(f"PEFT is not checked: {error}")
    sys.exit(77)

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
GOLDEN = FIXTURES / "golden"
TOLERANCE = 1e-5  # of the largest logit
PRUNED_SHARE = 0.4  # as in write_folders.cpp
# Of adapters that rora_write_folders writes: their weights and further flags of `rora combine`.
SUMS = {
    "sum": ({"lora": 1, "rora": 0.5}, []),
    "difference": ({"patterns": 1, "rora_portable": -1}, ["--scaling", "standard"]),
    "of_some_layers": ({"one_layer": 1, "attention_but_k": 2, "all_linear_of_a_layer": -0.3}, []),
    "over_the_width": ({"rank_over_width": 0.7, "patterns": 1.5}, ["--scaling", "rank-stabilized"]),
    "of_a_rewritten_base": ({"rewritten_rora": 0.5, "lora": 1, "patterns_portable": 1}, ["--rank", "32"]),
}
# Flags of `rora convert`, and the adapters that are converted by each.
CONVERSIONS = {
    "standard": ["--scaling", "standard"],
    "stabilized": ["--scaling", "rank-stabilized"],
    "alpha": ["--alpha", "5.5"],
    "uniform": ["--uniform"],
    "rank": ["--rank", "48", "--scaling", "standard"],
}
CONVERTED = ("lora", "rora", "dora", "dora_rora", "patterns", "one_layer", "attention_but_k", "rewritten_dora",
             "embedding_and_head", "tokens_of_each", "adalora", "adalora_of_some_ranks")
# What decides what an adapter computes.
FIELDS = ("r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "rank_pattern", "alpha_pattern",
          "target_modules", "exclude_modules", "layers_to_transform", "bias", "task_type", "modules_to_save",
          "trainable_token_indices", "ensure_weight_tying")
OF_A_PREFIX = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
               "encoder_hidden_size", "prefix_projection", "init_weights", "task_type", "modules_to_save")


class LogIsError(logging.Handler):
    def emit(self, record):
        raise AssertionError(f"{record.name} logged: {record.getMessage()}")


@contextlib.contextmanager
def strict():
    """Warnings and what the libraries log as such are errors."""
    handler = LogIsError(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("transformers", "peft")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            # Said of every folder of AdaLoRA, PEFT's own among them: its ranks' keys are not those of LoRA's.
            warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match.*lora_E.*")
            # Said of every adapter that unties the head, as those named embedding_and_head and embedding_untied do.
            warnings.filterwarnings("ignore", message=".*`ensure_weight_tying` is not set to True.*")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def require(holds, message):
    if not holds:
        raise AssertionError(message)


def load_model(folder):
    """The model in float32, every weight of which is in the folder, and no other."""
    with strict():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    for kind, names in info.items():
        require(not names, f"{kind}: {names}")
    return model.eval()


def load_adapted(base_folder, adapter_folder, dtype=torch.float32):
    base = load_model(base_folder).to(dtype)
    with strict():
        return peft.PeftModel.from_pretrained(base, str(adapter_folder)).eval()


def adapter_tensors(model):
    return peft.get_peft_model_state_dict(model, save_embedding_layers=False)


def error_of_logits(model, input_ids, stored):
    with torch.no_grad():
        logits = model(input_ids=input_ids).logits.float()
    require(logits.shape == stored.shape, f"logits {list(logits.shape)}, stored {list(stored.shape)}")
    return ((logits - stored).abs().max() / stored.abs().max()).item()


def expect_logits(model, input_ids, stored, tolerance=TOLERANCE):
    error = error_of_logits(model, input_ids, stored)
    require(error <= tolerance, f"logits differ by {error:.1e} of the largest")
    return f"logits differ by {error:.1e}"


def expect_same_tensors(found, stored):
    require(found.keys() == stored.keys(), f"tensors {sorted(found.keys() ^ stored.keys())} are in one alone")
    for name, tensor in stored.items():
        require(torch.equal(found[name], tensor), f"{name} differs")


def base_of(folder):
    """The model whose adapter the folder holds."""
    family = FIXTURES / "families" / folder.name
    return family if folder.parent.name in ("families", "prefixes") and family.exists() else GOLDEN / "model"


def kind_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())["peft_type"]


def check_adapter(folder):
    """PEFT reads an adapter that rora wrote: all of its tensors, and with them it computes rora's logits."""
    stored = load_file(folder / "logits.safetensors")
    model = load_adapted(base_of(folder), folder / "adapter")
    expect_same_tensors(adapter_tensors(model), load_file(folder / "adapter/adapter_model.safetensors"))
    if folder.name != "bfloat16_base":
        return expect_logits(model, stored["input_ids"], stored["logits"])
    bfloat16 = load_adapted(GOLDEN / "model", folder / "adapter", torch.bfloat16)
    with torch.no_grad():
        exact = copy.deepcopy(bfloat16).float()(stored["input_ids"]).logits
    peft_error = error_of_logits(bfloat16, stored["input_ids"], exact)
    error = ((stored["logits"] - exact).abs().max() / exact.abs().max()).item()
    require(error < 1.5 * peft_error, f"in bfloat16 rora is off by {error:.1e}, PEFT by {peft_error:.1e}")
    return f"in bfloat16 rora is off by {error:.1e}, PEFT by {peft_error:.1e}"


def check_adapter_counts(folder):
    """Without its adapter the model computes something else: the check above can fail."""
    stored = load_file(folder / "logits.safetensors")
    error = error_of_logits(load_model(base_of(folder)), stored["input_ids"], stored["logits"])
    require(error > 100 * TOLERANCE, f"the adapter changes the logits by {error:.1e} alone")
    return f"the adapter changes them by {error:.1e}"


def check_merged(folder):
    """transformers reads a merged folder that rora wrote; merging changes the logits by no more than rounding."""
    stored = load_file(folder / "logits.safetensors")
    model = load_model(folder / "merged")
    if folder.name != "bfloat16_base":
        expect_logits(model, stored["input_ids"], stored["logits"])
    return expect_logits(model, stored["input_ids"], stored["merged_logits"])


def check_resaved(folder):
    """An adapter that PEFT wrote and rora read and wrote again is the same to PEFT. PEFT has no bottlenecks."""
    original = GOLDEN / "answers" / folder.name
    name = "adapter_model.safetensors"
    expect_same_tensors(load_file(folder / name), load_file(original / name))
    if kind_of(original) == "BOTTLENECK":
        return "the same tensors"
    before, after = (load_adapted(GOLDEN / "model", each) for each in (original, folder))
    expect_same_tensors(adapter_tensors(after), adapter_tensors(before))
    for field in FIELDS if kind_of(original) == "LORA" else OF_A_PREFIX:
        values = [getattr(model.peft_config["default"], field) for model in (before, after)]
        require(values[0] == values[1], f"{field} was {values[0]!r} and is {values[1]!r}")
    configs = [json.loads((each / "adapter_config.json").read_text()) for each in (original, folder)]
    orders = [list(config.get("rank_pattern", {})) for config in configs]
    require(orders[0] == orders[1], f"rank_pattern's order was {orders[0]} and is {orders[1]}")
    input_ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        return expect_logits(after, input_ids, before(input_ids=input_ids).logits, 0)


def check_model(folder):
    """transformers reads a model that rora wrote."""
    stored = load_file(folder / "logits.safetensors")
    return expect_logits(load_model(folder), stored["input_ids"], stored["logits"])


def check_finetuned(folder):
    """`rora finetune` takes the steps that PEFT took from the same adapter."""
    stored = load_file(GOLDEN / "answers" / folder.name / "answers.safetensors")["adamw_losses"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = torch.tensor([step["loss"] for step in metrics])
    require(losses.shape == stored.shape, f"{len(losses)} steps, not {len(stored)}")
    error = ((losses - stored).abs() / stored).max().item()
    require(error <= 2e-5, f"losses differ by {error:.1e}")
    return f"losses differ by {error:.1e}"


def check_merged_run(folder):
    """With what `rora finetune` wrote PEFT computes what transformers does once `rora merge` has merged it."""
    input_ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        stored = load_adapted(GOLDEN / "model", folder.parent.parent / "finetuned" / folder.name)(
            input_ids=input_ids).logits
    return expect_logits(load_model(folder), input_ids, stored)


def model_of(folder):
    """The model that a pruned folder is of."""
    return GOLDEN / "model" if folder.name == "model" else FIXTURES / "families" / folder.name


def check_pruned(folder):
    """transformers reads a smaller model that rora wrote, and computes what rora does."""
    stored = load_file(folder / "logits.safetensors")
    model = load_model(folder)
    before = sum(each.numel() for each in load_model(model_of(folder)).model.layers.parameters())
    share = 1 - sum(each.numel() for each in model.model.layers.parameters()) / before
    require(abs(share - PRUNED_SHARE) < 0.02, f"{share:.3f} of the layers' parameters are gone")
    return f"{expect_logits(model, stored['input_ids'], stored['logits'])}, {100 * share:.1f}% are gone"


def check_pruned_by_binary(folder):
    """`rora prune` writes the same tensors, and a config.json that transformers reads as the same model."""
    by_binary = folder.parent.parent / "pruned_by_binary" / folder.name
    expect_same_tensors(load_file(by_binary / "model.safetensors"), load_file(folder / "model.safetensors"))
    stored = load_file(folder / "logits.safetensors")
    return expect_logits(load_model(by_binary), stored["input_ids"], stored["logits"])


def check_sum(folder):
    """PEFT loads a sum of adapters, and computes with it what the base does once each one's change, as PEFT has it, is
    added to its weights."""
    input_ids = torch.arange(3, 40).unsqueeze(0)
    expected = load_model(GOLDEN / "model")
    for adapter, weight in SUMS[folder.name][0].items():
        part = load_adapted(GOLDEN / "model", folder.parent.parent / "adapters" / adapter / "adapter")
        for name, layer in part.base_model.model.named_modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer):
                expected.get_submodule(name).weight.data += weight * layer.get_delta_weight("default")
    found = load_adapted(GOLDEN / "model", folder)
    expect_same_tensors(adapter_tensors(found), load_file(folder / "adapter_model.safetensors"))
    with torch.no_grad():
        return expect_logits(found, input_ids, expected(input_ids=input_ids).logits)


def check_converted(folder):
    """PEFT loads a converted adapter, and computes with it what it does with the original."""
    name, conversion = folder.name.split("-")
    original = folder.parent.parent / "adapters" / name
    stored = load_file(original / "logits.safetensors")
    model = load_adapted(GOLDEN / "model", folder)
    expect_same_tensors(adapter_tensors(model), load_file(folder / "adapter_model.safetensors"))
    if conversion in ("standard", "stabilized"):
        require(model.peft_config["default"].use_rslora == (conversion == "stabilized"), "use_rslora is another")
        if kind_of(original / "adapter") == "LORA":
            expect_same_tensors(load_file(folder / "adapter_model.safetensors"),
                                load_file(original / "adapter" / "adapter_model.safetensors"))
    return expect_logits(model, stored["input_ids"], stored["logits"])


def run_arithmetic(binary, out):
    """Combines and converts adapters."""
    for name, (weights, flags) in SUMS.items():
        adapters = [out / "adapters" / each / "adapter" for each in weights]
        run = [binary, "combine", "--adapters", *adapters, "--weights", ",".join(map(str, weights.values())),
               "--output", out / "sums" / name, *flags]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    for name in CONVERTED:
        for conversion, flags in CONVERSIONS.items():
            run = [binary, "convert", "--adapter", out / "adapters" / name / "adapter",
                   "--output", out / "converted" / f"{name}-{conversion}", *flags]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)


def run_binary(binary, out):
    """Prunes models. Fine-tunes each of PEFT's adapters on the batch and by the options of its stored losses, and merges
    it."""
    for pruned in (out / "pruned").iterdir():
        run = [binary, "prune", "--model", model_of(pruned), "--share", str(PRUNED_SHARE), "--output",
               out / "pruned_by_binary" / pruned.name]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    batch = load_file(GOLDEN / "answers" / "base.safetensors")
    rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist())
    data = out / "data.jsonl"
    data.write_text("".join(json.dumps({"input_ids": ids, "labels": labels}) + "\n" for ids, labels in rows))
    options = {"lr": 1e-3, "schedule": "constant", "warmup-steps": 0, "max-steps": 12, "weight-decay": 0, "clip": 0,
               "batch-size": len(batch["labels"]), "shuffle": "off", "dtype": "float32", "device": "cpu"}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for adapter in sorted(each for each in (GOLDEN / "answers").iterdir() if each.is_dir()):
        finetuned = out / "finetuned" / adapter.name
        model = ["--model", GOLDEN / "model"]
        run = [binary, "finetune", *model, "--data", data, "--output", finetuned, "--init-adapter", adapter, *flags]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        if kind_of(adapter) != "LORA":
            continue  # no weight does the same
        run = [binary, "merge", *model, "--adapter", finetuned, "--output", out / "merged" / adapter.name]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)


CHECKS = {
    "adapters": [check_adapter, check_adapter_counts, check_merged],
    "families": [check_adapter, check_adapter_counts, check_merged],
    "prefixes": [check_adapter, check_adapter_counts],
    "resaved": [check_resaved],
    "models": [check_model],
    "finetuned": [check_finetuned],
    "merged": [check_merged_run],
    "pruned": [check_pruned, check_pruned_by_binary],
    "sums": [check_sum],
    "converted": [check_converted],
}


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check.py BUILD_FOLDER")
    build = pathlib.Path(sys.argv[1])
    transformers.utils.logging.disable_progress_bar()
    failures = passes = 0
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary)
        subprocess.run([build / "tests" / "peft" / "rora_write_folders", FIXTURES, out], check=True)
        run_binary(build / "bin" / "rora", out)
        run_arithmetic(build / "bin" / "rora", out)
        for kind, checks in CHECKS.items():
            for folder in sorted((out / kind).iterdir()):
                for check in checks:
                    title = f"{check.__name__.removeprefix('check_')} {kind}/{folder.name}"
                    try:
                        print(f"pass  {title}: {check(folder)}")
                        passes += 1
                    except Exception as error:  # also what the libraries throw at a folder they do not take
                        print(f"FAIL  {title}: {type(error).__name__}: {error}")
                        failures += 1
    versions = f"PEFT {peft.__version__}, transformers {transformers.__version__}"
    print(f"{versions}: {passes} checks passed, {failures} failed")
    sys.exit(1 if failures or not passes else 0)


if __name__ == "__main__":
    main()
