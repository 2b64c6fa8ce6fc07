#!/usr/bin/env python3
"""Time LoRA, RoRA and DoRA at two ranks: a training step of each, and a forward of each once it is merged.

Every setting runs for `--rounds` rounds; in each, every command once, in turn, so that a machine that drifts drifts for
all. Ratios are formed within a round; their median counts. Needs a quiet machine.

    bench/methods.py --rora build/default/bin/rora --model SmolLM2-135M-Instruct --output bench/results/NAME.json
"""

import json
import pathlib
import statistics
import sys

from step import make_parser, processor, run, vector_flags

METHODS = {
    "LoRA": ["--scaling", "standard"], "RoRA": [], "DoRA": ["--scaling", "standard", "--dora"],
    "DoRA, alpha/sqrt(r)": ["--dora"]}
RANKS = (8, 128)


def settings(dtype):
    """By name: the flags, and the name of the setting that it is measured by."""
    common = ["--dtype", dtype]
    named = {"forward of the base": ([*common, "--frozen", "--inference"], None)}
    for rank in RANKS:
        first = f"step of LoRA, rank {rank}"
        for method, flags in METHODS.items():
            own = [*common, *flags, "--rank", str(rank)]
            named[f"step of {method}, rank {rank}"] = (own, first)
            named[f"forward of {method}, rank {rank}"] = ([*own, "--inference"], "forward of the base")
            named[f"forward of {method}, rank {rank}, merged"] = (
                [*own, "--inference", "--merge"], "forward of the base")
    return named


def main():
    parser = make_parser(__doc__, steps=3, batch=2, seq=128)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    arguments.beside = None

    named = settings(arguments.dtype)
    times = {name: [] for name in named}
    for round_number in range(arguments.rounds):
        for name, (flags, _) in named.items():
            times[name].append(run("rora", flags, arguments)["step_s"])
            print(f"round {round_number + 1}: {name}: {times[name][-1]:.3f} s", file=sys.stderr)

    report = {"processor": processor(), "vectors": vector_flags(), "settings": {}}
    report |= {each: getattr(arguments, each) for each in ("dtype", "rounds", "steps", "threads", "batch", "seq")}
    print("| setting | time | by | ratio (least … most) |\n|---|---|---|---|")
    for name, (flags, by) in named.items():
        ratios = sorted(a / b for a, b in zip(times[name], times[by or name]))
        report["settings"][name] = {"flags": flags, "seconds": times[name], "by": by, "ratios": ratios}
        print(f"| {name} | {statistics.median(times[name]):.3f} s | {by or '-'} | {statistics.median(ratios):.3f} "
              f"({ratios[0]:.3f} … {ratios[-1]:.3f}) |")
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
