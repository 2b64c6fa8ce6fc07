"""run.py's sections that run whole training steps: gpu_step on both devices, and beside PEFT's."""

import concurrent.futures
import json
import statistics
import sys
import time

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # between the losses of two devices, relative
SMALL = {"hidden": 256, "intermediate": 688, "heads": 8, "kv-heads": 2, "vocab": 512, "batch": 4, "seq": 96, "rank": 12,
         "steps": 20, "lr": 0.003}
TINY = {**SMALL, "hidden": 64, "intermediate": 160, "heads": 4, "vocab": 96, "batch": 2, "seq": 40}
# LLaMA-3-8B but for its 32 layers.
LARGE = {"hidden": 4096, "intermediate": 14336, "heads": 32, "kv-heads": 8, "vocab": 128256, "batch": 4, "seq": 2048,
         "rank": 16, "dtype": "bfloat16", "warmup": 3, "steps": 8}
LAYERS, FEWER, WHOLE = 4, 2, 32


def flags(values):
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def gpu_step(command, limit, device, **values):
    from run import child, tail

    code, out, err = child([command.build_folder / "gpu" / "gpu_step", *flags({"device": device, **values})], limit)
    if code != 0:
        how = "ran out of time" if code is None else f"ended with {code}"
        raise RuntimeError(f"gpu_step on {device} {how}: {tail(err)}")
    return json.loads(out)


def training(command, limit):
    """The same losses on the CPU and on the GPU, the same bits in each run, and LoRA's at the scale of RoRA."""
    end = time.monotonic() + limit
    sizes = TINY if command.cpu else SMALL
    other = "cpu" if command.cpu else "cuda"
    comparisons, failed = {}, []

    def call(device, **values):
        return gpu_step(command, end - time.monotonic(), device, **{**sizes, **values})

    attempts = {}

    def attempt(name, check):
        attempts[name] = check

    def carry_out(name, check):
        try:
            wrong, figures = check()
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
                ("bfloat16", {}), ("bfloat16", {"rows": "packed", "dropout": 0.1})]
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
    return {"ok": not failed, "cases": len(comparisons), "failures": len(failed), "failed": failed,
            "comparisons": comparisons}


def peft_step(command, limit, device, **values):
    import pathlib

    from run import child, tail

    script = pathlib.Path(__file__).with_name("peft_step.py")
    code, out, err = child([sys.executable, script, *flags({"device": device, **values})], limit)
    if code != 0:
        raise RuntimeError(f"peft_step {'ran out of time' if code is None else f'ended with {code}'}: {tail(err)}")
    return json.loads(out.strip().splitlines()[-1])


def product_flops(sizes, layers):
    """FLOPs of a step's frozen products, forward and for the gradients of their inputs: what no adapter can avoid.
    Nothing asks for the gradient of the embeddings."""
    tokens, hidden = sizes["batch"] * sizes["seq"], sizes["hidden"]
    kv = hidden * sizes["kv-heads"] // sizes["heads"]
    first = hidden * (hidden + 2 * kv)
    layer = first + hidden * hidden + 3 * hidden * sizes["intermediate"]
    return 2 * tokens * (2 * layers * layer - first + 2 * hidden * sizes["vocab"])


def compile_ahead(command, limit):
    """Fills the compiler's cache with PEFT's compiled step."""
    peft_step(command, limit, "cuda", **{**LARGE, "layers": LAYERS, "compile": True, "warmup": 1, "steps": 1})
    return {"ok": True}


def step(command, limit):
    """A whole step beside PEFT's, in turn; ratios are formed within a round. The last programs run once, while there is
    time."""
    end = time.monotonic() + limit
    device = "cpu" if command.cpu else "cuda"
    sizes = {**TINY, "steps": 3, "warmup": 1} if command.cpu else dict(LARGE)
    own = {} if command.cpu else {"init": "device"}
    programs = {
        "rora": (gpu_step, {"layers": LAYERS, **own}), "PEFT": (peft_step, {"layers": LAYERS}),
        "rora, fewer layers": (gpu_step, {"layers": FEWER, **own}),
        "PEFT, fewer layers": (peft_step, {"layers": FEWER}),
        "PEFT, bf16 adapters": (peft_step, {"layers": LAYERS, "short-adapters": True}),
        "hand-written addmm": (peft_step, {"layers": LAYERS, "hand-written": True}),
        "rora, frozen": (gpu_step, {"layers": LAYERS, "frozen": True, **own}),
        "rora, DoRA": (gpu_step, {"layers": LAYERS, "dora": True, **own}),
        "rora, packed rows": (gpu_step, {"layers": LAYERS, "rows": "packed", **own}),
        "rora, CUDA graph": (gpu_step, {"layers": LAYERS, "graph": "captured", **own}),
        "rora, packed rows, CUDA graph": (gpu_step, {"layers": LAYERS, "rows": "packed", "graph": "captured", **own}),
    }
    last = {"PEFT, compiled": (peft_step, {"layers": LAYERS, "compile": True})}
    for name, values in (("dropout 0.05", {"dropout": 0.05}), ("rank 64", {"rank": 64}), ("rank 256", {"rank": 256}),
                         ("rank 8", {"rank": 8})):
        last[f"rora, {name}"] = (gpu_step, {"layers": LAYERS, **values, **own})
        last[f"PEFT, {name}"] = (peft_step, {"layers": LAYERS, **values})
    if command.cpu:
        programs, last = {name: programs[name] for name in ("rora", "PEFT", "hand-written addmm")}, {}
    runs, failed, left_out, rounds, longest = {name: [] for name in [*programs, *last]}, [], [], 0, 0.0

    def run(name, program, values):
        try:
            runs[name].append(program(command, end - time.monotonic(), device, **{**sizes, **values}))
        except Exception as error:
            failed.append({"case": name, "wrong": [str(error)]})

    while rounds < (1 if command.cpu else 3) and time.monotonic() + longest < end:
        begin = time.monotonic()
        for name, call in programs.items():
            if rounds == 0 or name in ("rora", "PEFT"):
                run(name, *call)
        rounds += 1
        pair = ("rora", "PEFT") if rounds == 1 else programs
        longest = (time.monotonic() - begin) * (1.2 * len(pair) / len(programs) if rounds == 1 else 1.2)
    for name, call in last.items():
        begin = time.monotonic()
        if begin + longest > end:
            left_out.append(name)
        else:
            run(name, *call)
    found = {"sizes": sizes, "layers": LAYERS, "fewer_layers": FEWER, "rounds": rounds, "failed": failed,
             "left_out": left_out, "programs": {}}
    for name, each in runs.items():
        if each:
            layers = {**programs, **last}[name][1]["layers"]
            seconds = statistics.median(run["step_s"] for run in each)
            found["programs"][name] = {"step_s": seconds, "of_rounds": [run["step_s"] for run in each],
                                       "product_tflops": product_flops(sizes, layers) / seconds / 1e12,
                                       "peak_bytes": each[0]["peak_bytes"]}
    pairs = list(zip(runs["PEFT"], runs["rora"]))
    if pairs:
        found["times_pefts_speed"] = statistics.median(peft["step_s"] / rora["step_s"] for peft, rora in pairs)
        if pairs[0][1]["peak_bytes"]:
            found["of_pefts_memory"] = pairs[0][1]["peak_bytes"] / pairs[0][0]["peak_bytes"]
    found["whole_model"] = extrapolated(found["programs"], sizes)
    return found


def extrapolated(programs, sizes):
    """A step of all 32 layers, from the difference that layers make: not measured."""
    seconds = {}
    for name in ("rora", "PEFT"):
        if name in programs and f"{name}, fewer layers" in programs:
            few = programs[f"{name}, fewer layers"]["step_s"]
            layer = (programs[name]["step_s"] - few) / (LAYERS - FEWER)
            seconds[name] = few + (WHOLE - FEWER) * layer
    if len(seconds) < 2:
        return None
    return {"note": f"{WHOLE} layers, extrapolated from {FEWER} and {LAYERS}", "step_s": seconds,
            "product_tflops": {name: product_flops(sizes, WHOLE) / each / 1e12 for name, each in seconds.items()},
            "times_pefts_speed": seconds["PEFT"] / seconds["rora"]}
