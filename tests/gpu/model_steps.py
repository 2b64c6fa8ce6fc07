"""run.py's sections of whole steps beside PEFT's: all 32 layers of LLaMA-3-8B's shape, and four of them in rounds."""

import statistics
import time

from steps import TINY, RanOut, gpu_step, peft_step

# LLaMA-3-8B but for its layers.
LARGE = {"hidden": 4096, "intermediate": 14336, "heads": 32, "kv-heads": 8, "vocab": 128256, "batch": 4, "seq": 2048,
         "rank": 16, "dtype": "bfloat16", "warmup": 3, "steps": 6}
WHOLE, FEW = 32, 4  # layers
ROUNDS = 3
ONE, TWO = {"batch": 1}, {"batch": 2}
RORA, RORA_ONE = "rora, 4 x 2048", "rora, 1 x 2048"
PEFT_ONE = "PEFT, 1 x 2048"
SELECTIVE, FULL = "rora, selective checkpointing, 4 x 2048", "rora, full checkpointing, 4 x 2048"
# The most wanted first.
PROGRAMS = {
    RORA: (gpu_step, {}),
    PEFT_ONE: (peft_step, ONE),
    RORA_ONE: (gpu_step, ONE),
    "rora with room for A and B, 4 x 2048": (gpu_step, {"room": True}),
    "rora frozen, 4 x 2048": (gpu_step, {"frozen": True}),
    "rora DoRA, 4 x 2048": (gpu_step, {"dora": True}),
    "rora CUDA graph, 4 x 2048": (gpu_step, {"graph": "captured"}),
    "rora DoRA with room, 4 x 2048": (gpu_step, {"dora": True, "room": True}),
    "rora rank 64, 4 x 2048": (gpu_step, {"rank": 64}),
    "rora rank 64 with room, 4 x 2048": (gpu_step, {"rank": 64, "room": True}),
    SELECTIVE: (gpu_step, {"checkpointing": "selective"}),
    "rora, selective checkpointing, 2 x 2048": (gpu_step, {**TWO, "checkpointing": "selective"}),
    FULL: (gpu_step, {"checkpointing": "full"}),
    "PEFT bf16 adapters, 1 x 2048": (peft_step, {**ONE, "short-adapters": True}),
    "PEFT, 2 x 2048": (peft_step, TWO),
    "PEFT compiled, 1 x 2048": (peft_step, {**ONE, "compile": True}),
}
PAIR = ("rora", "PEFT")
FEW_LAYERS = {
    "rora": (gpu_step, {}),
    "PEFT": (peft_step, {}),
    "PEFT, bf16 adapters": (peft_step, {"short-adapters": True}),
    "hand-written addmm": (peft_step, {"hand-written": True}),
    "rora with room": (gpu_step, {"room": True}),
    "rora, packed rows": (gpu_step, {"rows": "packed"}),
    "rora, packed rows, CUDA graph": (gpu_step, {"rows": "packed", "graph": "captured"}),
    "rora, rank 256": (gpu_step, {"rank": 256}),
    "PEFT, compiled": (peft_step, {"compile": True}),
}
LEAST = 10.0  # seconds that a program may take before anything is known of any
OF_COMPILED = {WHOLE: 120.0, FEW: 45.0}  # and one that is compiled first, by layers


def product_flops(sizes, layers):
    """FLOPs of a step's frozen products, forward and for the gradients of their inputs: what no adapter can avoid.
    Nothing asks for the gradient of the embeddings."""
    tokens, hidden = sizes["batch"] * sizes["seq"], sizes["hidden"]
    kv = hidden * sizes["kv-heads"] // sizes["heads"]
    first = hidden * (hidden + 2 * kv)
    layer = first + hidden * hidden + 3 * hidden * sizes["intermediate"]
    return 2 * tokens * (2 * layers * layer - first + 2 * hidden * sizes["vocab"])


class Steps:
    """Programs that time a step each, one after the other while there is time. What is known of them is kept."""

    def __init__(self, command, section, limit, programs, layers):
        self.command, self.section, self.programs = command, section, programs
        self.layers = 2 if command.cpu else layers
        self.end = time.monotonic() + limit
        self.sizes = {**TINY, "steps": 3, "warmup": 1} if command.cpu else dict(LARGE)
        before = command.report.of(section)
        self.found = {"sizes": self.sizes, "layers": self.layers, "programs": dict(before.get("programs", {})),
                      "failed": list(before.get("failed", [])), "left_out": []}

    def known(self, name):
        return name in self.found["programs"]

    def lacking(self):
        """Names, those last that have failed before."""
        failed = [each["case"] for each in self.found["failed"]]
        return sorted((name for name in self.programs if not self.known(name)), key=failed.__contains__)

    def needs(self, name):
        """Seconds for a program: the longest so far of its kind or, where there is none, of any."""
        call, values = self.programs[name]
        taken = {other: each["seconds"] for other, each in self.found["programs"].items() if other in self.programs}
        alike = [seconds for other, seconds in taken.items() if self.programs[other][0] is call]
        least = OF_COMPILED[self.layers] if "compile" in values and not self.command.cpu else LEAST
        return max([least, *(alike or taken.values())])

    def run(self, name):
        """Whether it ran to its end."""
        begin = time.monotonic()
        call, values = self.programs[name]
        self.found["failed"] = [each for each in self.found["failed"] if each["case"] != name]
        if self.end - begin < self.needs(name):
            self.found["left_out"].append(name)
            return False
        own = {**self.sizes, "layers": self.layers, **values}
        if call is gpu_step and not self.command.cpu:
            own["init"] = "device"
        try:
            one = call(self.command, self.end - begin, "cpu" if self.command.cpu else "cuda", **own)
        except RanOut:
            self.found["left_out"].append(name)
            return False
        except Exception as error:
            self.found["failed"].append({"case": name, "wrong": [str(error)]})
            return False
        before = self.found["programs"].get(name, {"of_rounds": [], "seconds": 0.0})
        rounds = [*before["of_rounds"], one["step_s"]]
        seconds = statistics.median(rounds)
        self.found["programs"][name] = {
            "step_s": seconds, "of_rounds": rounds, "tokens_per_s": own["batch"] * own["seq"] / seconds,
            "product_tflops": product_flops(own, own["layers"]) / seconds / 1e12, "peak_bytes": one["peak_bytes"],
            "rank": own["rank"], "seconds": max(before["seconds"], round(time.monotonic() - begin, 1))}
        self.command.report.keep(self.section, {**self.found, "complete": False})
        return True

    def result(self):
        return {**self.found, "complete": not self.found["left_out"] and not self.found["failed"]}


def ratios(programs, rora, peft):
    """By how much a step is faster than PEFT's, within a round, and what it takes of PEFT's memory."""
    if rora not in programs or peft not in programs:
        return {}
    own, other = programs[rora], programs[peft]
    rounds = zip(other["of_rounds"], own["of_rounds"])
    found = {"times_pefts_speed": statistics.median(theirs / ours for theirs, ours in rounds)}
    if own["peak_bytes"]:
        found["of_pefts_memory"] = own["peak_bytes"] / other["peak_bytes"]
    return found


def model(command, limit):
    """A step of all layers, each program once."""
    programs = PROGRAMS
    if command.cpu:  # without CUDA's graphs, and PEFT's once, whose start is long
        programs = {name: each for name, each in PROGRAMS.items()
                    if "graph" not in each[1] and (each[0] is gpu_step or name == PEFT_ONE)}
    steps = Steps(command, "model", limit, programs, WHOLE)
    for name in steps.lacking():
        steps.run(name)
    return {**steps.result(), **ratios(steps.found["programs"], RORA_ONE, PEFT_ONE)}


def step(command, limit):
    """A step of few layers, rora's and PEFT's in rounds: with less memory, at as many tokens."""
    programs = FEW_LAYERS
    if command.cpu:
        programs = {name: FEW_LAYERS[name] for name in (*PAIR, "hand-written addmm")}
    steps = Steps(command, "step", limit, programs, FEW)
    known = steps.found["programs"]
    whole = min(len(known[name]["of_rounds"]) if name in known else 0 for name in PAIR)
    for name in PAIR:  # a round whose other half an earlier call did not come to
        if whole == 0:
            known.pop(name, None)
        else:
            known[name]["of_rounds"] = known[name]["of_rounds"][:whole]
    rounds = 1 if command.cpu else ROUNDS
    for number in range(whole, rounds):
        if number == 1:
            others(steps)
        if not all([steps.run(name) for name in PAIR]):
            break
    others(steps)
    found = {**steps.result(), **ratios(known, *PAIR)}
    return {**found, "rounds": min(len(known[name]["of_rounds"]) if name in known else 0 for name in PAIR)}


def others(steps):
    """What is measured once, and is not left out already."""
    for name in steps.lacking():
        if name not in PAIR and name not in steps.found["left_out"]:
            steps.run(name)
