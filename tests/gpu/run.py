#!/usr/bin/env python3
"""The proof on a GPU, in one command: builds rora from this tree and checks and times it on the machine's GPU.

    python3 tests/gpu/run.py                      on a machine with an NVIDIA GPU (8.0 or newer); 4 minutes a part
    python3 tests/gpu/run.py --part checks        one part of it; a call for each, where a GPU is lent for minutes
    python3 tests/gpu/run.py --part checks --resume     goes on where the last call stopped
    python3 tests/gpu/run.py --cpu                the same checks of tiny sizes on the CPU, in a minute or two
    python3 tests/gpu/run.py --full               the whole grid of the benchmark, for as long as it takes
    python3 tests/gpu/run.py --table REPORT.json  draws the tables of bench/README.md from a report

It needs a Python with torch 2.11 or newer (for CUDA) and PEFT, CMake 3.25, ninja, a C++20 compiler and, for a GPU, the
CUDA toolkit of torch's version; nothing else, and no network. Settings of the GPU are read and never changed. What it
finds goes into one JSON file (--output), which is whole at any moment, and a summary to the terminal. The parts and
their sections, each with the most wanted first:

checks
    parity       every operator against the CPU (float32) and eager bfloat16's error; odd sizes, strides, gradients;
                 of one size in float16 too, which LibTorch's operations compute
    determinism  the same bits over ten runs of each operator
    dropout      the mask is the CPU's, bit for bit
    masks        so are those of the operators that apply it inside
    memcheck, racecheck, initcheck      the operators of small sizes under compute-sanitizer, where it works; racecheck
                 without the operators whose products go to cuBLASLt, in whose kernels it fails ("left out")
    training     gpu_step on the CPU and on the GPU: the same losses; ten runs with the same bits; LoRA at RoRA's
                 scale; no wait for the GPU but where the loss is read; steps captured in CUDA graphs: the bits of the
                 same steps without
    parity, thin products    that of the low-rank products where matrix products form them
    parity, 128x128 and 128x256     that of the sums of products, and of what calls them, where one kernel forms
                 W*x + B*S, if it was built (CUTLASS)
layer
    compile      fills the compiler's cache for PEFT's compiled rows
    layer        a layer's projections beside PEFT's, addmm and the frozen products, by rank
    layer, fastest form     rora's once more where that kernel, and matrix products for the low-rank ones, are taken
                 whenever one trial found them faster
    linears      projections alone
model
    model        a step of all 32 layers of LLaMA-3-8B's shape beside PEFT's, each program once
    step         a step of 4 layers, rora's and PEFT's in rounds

A section that fails or runs out of time stops no other. With --resume a section that came through is not run again,
checks go on at the case where they stopped, and blocks and steps that the report has are kept. That holds for one
machine and one build of the library: a report of another is refused with exit code 2. Else the exit code is 0 where
those of the checks' sections that this call was asked for hold, as far as compute-sanitizer and the one kernel can be
had, 1 where one does not or did not come through, 77 where Python lacks torch, PEFT or transformers. Speed and memory
are recorded, with the goals beside them, and fail nothing.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import pathlib
import sys
import time

from children import end_with_this_process
from progress import Refused, Report, library_of
from sections import GRACE, ROOT, Command

PARTS = {
    "checks": ("parity", "determinism", "dropout", "masks", "training", "memcheck", "racecheck", "initcheck",
               "parity, thin products", "parity, 128x128", "parity, 128x256"),
    "layer": ("compile", "layer", "layer, fastest form", "linears"),
    "model": ("model", "step"),
}
NOT_ON_CPU = ("memcheck", "racecheck", "initcheck", "parity, thin products", "parity, 128x128", "parity, 128x256",
              "compile")
THIN = ("low_rank_shrink", "low_rank_gradient_b", "low_rank_gradient_b_into", "low_rank_gradient_a",
        "low_rank_linear")
FASTEST = {"RORA_CUDA_SUM": "timed", "RORA_CUDA_THIN": "timed"}
SHARES = {"compile": 0.4, "layer": 0.65, "layer, fastest form": 0.4}  # of what is left of a part; else all


def timed(function, *arguments):
    begin = time.monotonic()
    try:
        found = function(*arguments)
    except Exception as error:  # a section of its own: the others go on
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    found["seconds"] = round(time.monotonic() - begin, 1)
    return found


def call_of(command, name):
    """What carries out a section: it takes the seconds that it may last."""
    import model_steps
    import steps

    if name in ("parity", "determinism", "dropout", "masks"):
        return lambda limit: command.checks(name, limit)
    if name in ("memcheck", "racecheck", "initcheck"):
        return lambda limit: command.sanitizer(name, limit)
    if name == "parity, thin products":
        return lambda limit: command.checks(name, limit, "parity", environment={"RORA_CUDA_THIN": "products"},
                                            operators=THIN)
    if name.startswith("parity, "):
        return lambda limit: command.one_kernel(name.removeprefix("parity, "), limit)
    if name == "layer, fastest form":
        return lambda limit: command.benchmark(name, limit, "layer", environment=FASTEST,
                                               rows=["frozen", "rora", "rora, DoRA"])
    if name in ("layer", "linears"):
        return lambda limit: command.benchmark(name, limit)
    if name == "compile":
        return command.compile_ahead
    return lambda limit: {"training": steps.training, "model": model_steps.model, "step": model_steps.step}[name](
        command, limit)


class Call:
    """One call of the command: the sections that it was asked for."""

    def __init__(self, command, report):
        self.command, self.report, self.arguments = command, report, command.arguments
        every = [name for part in self.arguments.part for name in PARTS[part]]
        self.wanted = [name for name in every if name in (self.arguments.only or every)
                       and not (command.cpu and name in NOT_ON_CPU)]

    def through(self, name):
        """Whether an earlier call came to the section's end."""
        section = self.report.of(name)
        return bool(section.get("complete")) and bool(section.get("full", True) or not self.arguments.full)

    def keep(self, name, result, before):
        import report

        result["seconds"] = round(result["seconds"] + before.get("seconds", 0.0), 1)
        if "error" in result:  # what it had found until then stays
            result = {**self.report.of(name), **result, "complete": False}
        self.report.keep(name, result)
        print(report.line(name, result), flush=True)

    def part(self, part):
        names = [name for name in PARTS[part] if name in self.wanted and not self.through(name)]
        budget = 3600.0 if self.arguments.full and part != "checks" else self.arguments.budget
        end = time.monotonic() + budget - GRACE
        if part == "checks" or self.command.cpu:  # nothing is timed, or times mean nothing
            self.together(names, end)
        else:
            self.in_turn(names, end)

    def together(self, names, end):
        if not names:
            return
        before = {name: dict(self.report.of(name)) for name in names}

        def carry_out(name):
            return timed(call_of(self.command, name), max(end - time.monotonic(), 1.0))

        with concurrent.futures.ThreadPoolExecutor(2 if self.command.cpu else len(names)) as pool:
            running = {pool.submit(carry_out, name): name for name in names}
            for each in concurrent.futures.as_completed(running):
                self.keep(running[each], each.result(), before[running[each]])

    def in_turn(self, names, end):
        """The benchmark has the machine to itself."""
        import report

        for name in names:
            before = dict(self.report.of(name))
            left = end - time.monotonic()
            if left < 5:
                print(f"{name}: there is no time left")
                continue
            share = 1.0 if self.arguments.full or name == names[-1] else SHARES.get(name, 1.0)
            state = report.gpu_state()
            result = timed(call_of(self.command, name), share * left)
            result["gpu_before"], result["gpu_after"] = state, report.gpu_state()
            self.keep(name, result, before)

    def unproven(self):
        """The checks that do not hold: those that failed, and those that did not come through."""
        checks = [name for name in PARTS["checks"] if name in self.wanted]
        checks = [name for name in checks if "unavailable" not in self.report.of(name)]
        failed = [name for name in checks
                  if self.report.of(name).get("failed") or {"report", "error"} & set(self.report.of(name))]
        return failed, [name for name in checks if name not in failed and not self.report.of(name).get("ok")]


def run(arguments):
    import report

    begin = time.monotonic()
    command = Command(arguments)
    built = timed(command.build)
    if not built["ok"]:
        print(report.line("build", built), built.get("output", ""), sep="\n")
        return 1
    own = Report(arguments.output, report.machine(command.cpu), library_of(command.build_folder))
    if arguments.resume:
        try:
            line = own.resume()
        except Refused as refused:
            print(refused)
            return 2
        if line:
            print(line)
    command.report = own
    call = Call(command, own)
    unknown = set(arguments.only or ()) - {name for names in PARTS.values() for name in names}
    if unknown:
        print(f"there is no section {', '.join(sorted(unknown))}")
    own.keep("build", built)
    print(report.line("build", built), flush=True)
    for part in arguments.part:
        call.part(part)
    found = own.found
    found["goals"] = report.goals(found)
    seconds = round(time.monotonic() - begin, 1)
    found["seconds"] = round(found.get("seconds", 0.0) + seconds, 1)
    failed, stopped = call.unproven()
    found["passed"] = not failed and not stopped
    own.write()
    if not command.cpu:
        print(report.table(found))
    verdicts = [f"FAILED: {', '.join(failed)}"] if failed else []
    verdicts += [f"did not come through: {', '.join(stopped)}"] if stopped else []
    print(f"{arguments.output}: {'; '.join(verdicts) or 'passed'}, {seconds} s")
    return 0 if found["passed"] else 1


def parts(text):
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no part {text}")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="tiny sizes, without a GPU")
    parser.add_argument("--full", action="store_true", help="the benchmark's whole grid")
    parser.add_argument("--build", help="a build that has the target rora_gpu; else one is made in build/gpu")
    parser.add_argument("--output", default=str(ROOT / "build" / "gpu_report.json"))
    parser.add_argument("--part", nargs="+", type=parts, default=list(PARTS), metavar="PART",
                        help="checks, layer, model: these alone")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections alone")
    parser.add_argument("--resume", action="store_true", help="go on from what --output holds")
    parser.add_argument("--budget", type=float, help="seconds a part, beside the build: 230; with --cpu 400")
    parser.add_argument("--build-limit", type=float, default=300.0, help="seconds for the build")
    parser.add_argument("--table", metavar="REPORT", help="only draw the tables of a report")
    arguments = parser.parse_args()
    if arguments.table:
        import report

        print(report.table(json.loads(pathlib.Path(arguments.table).read_text())))
        return 0
    for package in ("torch", "peft", "transformers"):
        if importlib.util.find_spec(package) is None:
            print(f"skipped: this Python has no {package}")
            return 77
    import torch

    if not arguments.cpu and not torch.cuda.is_available():
        print("there is no GPU here; --cpu runs what can run without one")
        return 1
    arguments.budget = arguments.budget or (400.0 if arguments.cpu else 230.0)
    end_with_this_process()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
