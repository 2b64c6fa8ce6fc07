"""run.py's section of training steps: gpu_step on both devices, with the same losses and bits."""

import concurrent.futures
import json
import pathlib
import sys
import time

from children import child, tail

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # between the losses of two devices, relative
SMALL = {"hidden": 256, "intermediate": 688, "heads": 8, "kv-heads": 2, "vocab": 512, "batch": 4, "seq": 96, "rank": 12,
         "steps": 20, "lr": 0.003}
TINY = {**SMALL, "hidden": 64, "intermediate": 160, "heads": 4, "vocab": 96, "batch": 2, "seq": 40}


class RanOut(RuntimeError):
    """A program that had no time to end."""


def flags(values):
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def stepped(what, program, limit, values):
    """The JSON that a program of steps prints at its end."""
    code, out, err = child([*program, *flags(values)], limit)
    if code is None:
        raise RanOut(f"{what} ran out of time")
    if code != 0:
        raise RuntimeError(f"{what} ended with {code}: {tail(err)}")
    return json.loads(out.strip().splitlines()[-1])


def gpu_step(command, limit, device, **values):
    program = [command.build_folder / "gpu" / "gpu_step"]
    return stepped(f"gpu_step on {device}", program, limit, {"device": device, **values})


def peft_step(command, limit, device, **values):
    program = [sys.executable, pathlib.Path(__file__).with_name("peft_step.py")]
    return stepped("peft_step", program, limit, {"device": device, **values})


def training(command, limit):
    """The same losses on the CPU and on the GPU, the same bits in each run, and LoRA's at the scale of RoRA."""
    end = time.monotonic() + limit
    sizes = TINY if command.cpu else SMALL
    other = "cpu" if command.cpu else "cuda"
    before = command.report.of("training")
    comparisons, failed, left_out = dict(before.get("comparisons", {})), list(before.get("failed", [])), []

    def call(device, **values):
        return gpu_step(command, end - time.monotonic(), device, **{**sizes, **values})

    attempts = {}

    def attempt(name, check):
        attempts[name] = check

    def carry_out(name, check):
        if name in comparisons:
            return
        try:
            if end - time.monotonic() < 1:
                raise RanOut
            wrong, figures = check()
        except RanOut:
            left_out.append(name)
            return
        except Exception as error:
            wrong, figures = [str(error)], {}
        comparisons[name] = figures
        if wrong:
            failed.append({"case": name, "wrong": wrong})

    def agree(dtype, values):
        cpu = call("cpu", dtype=dtype, threads=1 if command.cpu else 4, **values)["runs"][0]["losses"]
        gpu = call(other, dtype=dtype, threads=2, **values)["runs"][0]["losses"]
        errors = [abs(a - b) / abs(a) if a is not None and b is not None else float("inf") for a, b in zip(cpu, gpu)]
        wrong = [f"losses differ by {max(errors):.1e}"] if max(errors) > TOLERANCE[dtype] else []
        if not cpu[-1] < 0.98 * cpu[0]:
            wrong.append(f"the loss does not fall: {cpu[0]:.3f} to {cpu[-1]:.3f}")
        return wrong, {"most": max(errors), "first": cpu[0], "last": cpu[-1]}

    variants = [("float32", {}), ("float32", {"rows": "padded"}), ("float32", {"rows": "packed"}),
                ("float32", {"dropout": 0.1}), ("float32", {"dora": True}), ("float32", {"dora": True, "dropout": 0.1}),
                ("bfloat16", {}), ("bfloat16", {"rows": "packed", "dropout": 0.1}),
                # As many tokens as the norm takes to write S behind its result: then x and S, W and B are one product,
                # as are the gradients of all that reads x and dS.
                ("bfloat16", {"room": True, "batch": 24, "steps": 10}),
                ("bfloat16", {"room": True, "dora": True, "batch": 24, "steps": 10})]
    for dtype, values in variants:
        name = ", ".join([dtype, *(f"{key} {value}" if value is not True else key for key, value in values.items())])
        attempt(name, lambda dtype=dtype, values=values: agree(dtype, values))

    def same_bits(deterministic):
        runs = call(other, repeat=3 if command.cpu else 10, dtype="bfloat16", dropout=0.1, rows="packed",
                    **({"deterministic": True} if deterministic else {}))["runs"]
        differ = len({(run["digest"], str(run["losses"])) for run in runs}) > 1
        return differ, {"runs": len(runs), "differ": differ}

    def repeated():
        differ, figures = same_bits(True)
        return (["the runs do not have the same bits"] if differ else []), figures

    attempt("the same bits in each run", repeated)
    # LibTorch's own attention need not be deterministic unless it is told to be: on record only.
    attempt("the same bits, without LibTorch's deterministic mode", lambda: ([], same_bits(False)[1]))

    def graphs(values):
        # Of CUDA graphs and of the same work without them, where rows and counts are padded alike; and of neither.
        kinds = ("none", "repeated") if command.cpu else ("none", "repeated", "captured")
        runs = {kind: call(other, graph=kind, deterministic=True, **values)["runs"][0] for kind in kinds}
        wrong = []
        if not command.cpu and any(runs["captured"][key] != runs["repeated"][key] for key in ("digest", "losses")):
            wrong.append("captured steps have other bits than the same steps repeated")
        plain, padded = runs["none"]["losses"], runs["repeated"]["losses"]
        most = max(abs(a - b) / abs(a) if a is not None and b is not None else float("inf")
                   for a, b in zip(plain, padded))
        if most > TOLERANCE[values["dtype"]]:
            wrong.append(f"losses of padded batches differ by {most:.1e}")
        return wrong, {"most": most, "last": padded[-1]}

    for values in ({"dtype": "float32"}, {"dtype": "float32", "dora": True},
                   {"dtype": "bfloat16", "rows": "packed"}, {"dtype": "bfloat16", "rows": "padded", "dora": True}):
        name = ", ".join(["CUDA graphs", *map(str, values.values())])
        attempt(name, lambda values=values: graphs(values))

    def equal_scale():
        runs = [call(other, scaling=scaling, alpha=alpha, rank=16, deterministic=True)["runs"][0]["digest"]
                for scaling, alpha in (("rora", 16), ("lora", 64))]
        return ([] if runs[0] == runs[1] else ["other bits than LoRA's at the same scale"]), {}

    attempt("RoRA is LoRA at equal scale", equal_scale)

    def without_waiting(values):
        call(other, **{"no-waits": True, "steps": 4, **values})
        return [], {}

    if not command.cpu:
        short = {"dtype": "bfloat16"}
        for values in ({}, {**short, "rows": "packed", "dropout": 0.1}, {**short, "dora": True}):
            name = ", ".join(["no step waits for the GPU but to read its loss", *map(str, values)])
            attempt(name, lambda values=values: without_waiting(values))

    def zero_b():
        adapted = call(other, lr=0, steps=1)["runs"][0]["losses"][0]
        frozen = call(other, frozen=True, steps=1)["runs"][0]["losses"][0]
        error = abs(adapted - frozen) / frozen
        return ([f"differs by {error:.1e}"] if error > 1e-5 else []), {"error": error}

    attempt("zero B gives the base's loss", zero_b)
    with concurrent.futures.ThreadPoolExecutor(1 if command.cpu else 4) as pool:
        list(pool.map(carry_out, attempts, attempts.values()))
    return {"ok": not failed and not left_out, "complete": not left_out, "cases": len(comparisons),
            "failures": len(failed), "failed": failed, "left_out": left_out, "comparisons": comparisons}
