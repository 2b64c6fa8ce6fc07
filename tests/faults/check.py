#!/usr/bin/env python3
"""A run whose system calls fail or that is killed, one call after the other, then goes on to the same adapter.

    tests/faults/check.py RORA_BINARY FAULTS_LIBRARY [--all]

A short fine-tuning run makes some hundred calls that write to its folder or list it. For each of them a run is made in
which that call fails, and one that is killed there, both from a fresh folder and from one that holds a checkpoint.
Whatever comes of it, `--resume` must end with the bytes of a run that was left alone, must not begin afresh where there
was a checkpoint, and must leave nothing behind. `--all`, or RORA_FAULTS=all, takes every call; without it a few, evenly
spread.
"""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOME = 7  # cases of a kind, where not all are taken
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
STEPS, CHECKPOINT = 4, 2


class Place:
    """A folder with a tiny model and data, and the binary that trains on it."""

    def __init__(self, folder, binary, library):
        self.folder, self.binary, self.library = folder, binary, library
        records = [{"input_ids": [(i + k) % 28 + 3 for k in range(6 + i % 3)]} for i in range(8)]
        (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32, "rms_norm_eps": 1e-5,
            "eos_token_id": 2, "tie_word_embeddings": True, "hidden_act": "silu", "max_position_embeddings": 64}
        (folder / "config.json").write_text(json.dumps(config))
        made = self.run(["pretrain", "--model-config", folder / "config.json", "--max-steps", 1, "--output",
                         folder / "model"])
        assert made.returncode == 0, made.stderr

    def run(self, arguments, fault=None):
        environment = dict(os.environ)
        if fault is not None:
            environment |= {"LD_PRELOAD": str(self.library), **{key: str(value) for key, value in fault.items()}}
        command = [self.binary, arguments[0], "--data", self.folder / "train.jsonl", "--threads", 1, *arguments[1:]]
        return subprocess.run([str(each) for each in command], env=environment, capture_output=True, text=True,
                              timeout=120)

    def finetune(self, output, fault=None, resume=True, steps=STEPS):
        arguments = ["finetune", "--model", self.folder / "model", "--output", output, "--max-steps", steps,
                     "--save-every", CHECKPOINT, "--rank", 2, "--batch-size", 2]
        return self.run([*arguments, *(["--resume"] if resume else [])], fault)


def adapter(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def spread(count, all_of_them):
    return range(1, count + 1) if all_of_them else sorted({1 + i * (count - 1) // (SOME - 1) for i in range(SOME)})


def check(place, begun, at, error, whole, failures):
    """One run with a fault at call `at`, then one that goes on."""
    output = place.folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    if begun is not None:
        shutil.copytree(begun, output)
    what = f"{'resumed' if begun else 'new'} run, call {at}, {errno.errorcode.get(error, 'killed')}"
    fault = {"RORA_FAULT_FOLDER": output, "RORA_FAULT_AT": at, "RORA_FAULT_ERRNO": error}
    faulty = place.finetune(output, fault, resume=begun is not None)
    if error != 0 and faulty.returncode not in (0, 1):
        failures.append(f"{what}: exit code {faulty.returncode}: {faulty.stderr}")
    if faulty.returncode == 1 and faulty.stderr.count("\n") != 1:
        failures.append(f"{what}: not one line: {faulty.stderr!r}")
    if faulty.returncode == 0 and adapter(output) != whole:
        failures.append(f"{what}: done, and another adapter")
    rest = place.finetune(output)
    if rest.returncode != 0:
        failures.append(f"{what}: --resume failed: {rest.stderr}")
        return
    if adapter(output) != whole:
        failures.append(f"{what}: --resume ended with another adapter")
    results = json.loads((output / "run.json").read_text())["results"]
    if begun is not None and results["resumed_from_step"] < CHECKPOINT:
        failures.append(f"{what}: --resume began afresh at step {results['resumed_from_step']}")
    expected = {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.json", f"checkpoint-{STEPS}"}
    if left := {path.name for path in output.iterdir()} ^ expected:
        failures.append(f"{what}: differs from what a run leaves: {sorted(left)}")


def main():
    binary, library = map(pathlib.Path, sys.argv[1:3])
    all_of_them = "--all" in sys.argv or os.environ.get("RORA_FAULTS") == "all"
    failures, cases = [], 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(pathlib.Path(folder), binary.resolve(), library.resolve())
        assert place.finetune(place.folder / "whole").returncode == 0
        whole = adapter(place.folder / "whole")
        # A run that was killed behind its first checkpoint: where it took its place, two writes later.
        begun = place.folder / "begun"
        killed = 0
        while not (begun / f"checkpoint-{CHECKPOINT}").exists():
            shutil.rmtree(begun, ignore_errors=True)
            killed += 5
            place.finetune(begun, {"RORA_FAULT_FOLDER": begun, "RORA_FAULT_AT": killed, "RORA_FAULT_ERRNO": 0})
        for start in (None, begun):
            counted = place.folder / "counted"
            shutil.rmtree(counted, ignore_errors=True)
            if start is not None:
                shutil.copytree(start, counted)
            count_file = place.folder / "count"
            fault = {"RORA_FAULT_FOLDER": counted, "RORA_FAULT_AT": 0, "RORA_FAULT_COUNT": count_file}
            assert place.finetune(counted, fault).returncode == 0
            count = int(count_file.read_text())
            assert count > 20, f"only {count} calls were seen"
            for at in spread(count, all_of_them):
                for error in (ERRORS[at % len(ERRORS)], 0):
                    check(place, start, at, error, whole, failures)
                    cases += 1
    print("\n".join(failures) or f"{cases} faults, each gone on from to the same bytes")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
