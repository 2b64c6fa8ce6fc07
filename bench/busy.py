#!/usr/bin/env python3
"""Compare what other processes do to a training step of rora and to PEFT's, on a machine where nothing else runs.

In each of `--rounds` rounds every command runs once with none, with one and with two processes beside it that do nothing
but run. The slowdown is how many times as long a step takes as in the same round with none beside. The fair one, where the
threads have had their share of the processors and nothing was lost, is (threads + processes) / processors, or 1. Medians
over the rounds.

    bench/busy.py --rora build/default/bin/rora --model SmolLM2-135M-Instruct --output bench/results/NAME.json

With `--beside OLD`, another build's binary, that one takes part too. Needs a Python with torch, transformers and PEFT.
"""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from step import RANK_16, make_parser, processor, run, vector_flags

BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


@contextlib.contextmanager
def busy_processes(count):
    processes = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-c", BUSY]))
        time.sleep(1)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def table(report):
    processors, threads = report["processors"], report["threads"]
    lines = ["| processes beside | fair | " + " | ".join(report["commands"]) + " |", "|---" * (len(report["commands"]) + 2) + "|"]
    for beside in report["beside"]:
        cells = []
        for runs in report["commands"].values():
            slowdowns = sorted(a / b for a, b in zip(runs[str(beside)], runs["0"]))
            seconds = statistics.median(runs[str(beside)])
            cells.append(f"{seconds:.2f} s" if beside == 0 else
                         f"{seconds:.2f} s, {statistics.median(slowdowns):.2f} ({slowdowns[0]:.2f} … {slowdowns[-1]:.2f})")
        fair = max(1.0, (threads + beside) / processors)
        lines.append(f"| {beside} | {fair:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = make_parser(__doc__, steps=3)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--beside", metavar="OLD", help="another build's binary")
    arguments = parser.parse_args()

    commands = {
        "rora's step": ("rora", RANK_16), "rora's forward": ("rora", [*RANK_16, "--inference"]), "PEFT's step": ("peft", RANK_16)}
    if arguments.beside:
        commands["the other build's step"] = ("beside", RANK_16)
    report = {
        "processor": processor(), "vectors": vector_flags(), "date": time.strftime("%Y-%m-%d"),
        "processors": len(os.sched_getaffinity(0)), "threads": arguments.threads, "rounds": arguments.rounds,
        "steps": arguments.steps, "batch": arguments.batch, "seq": arguments.seq, "beside": [0, 1, 2],
        "commands": {name: {"0": [], "1": [], "2": []} for name in commands},
    }
    for round_number in range(arguments.rounds):
        for beside in report["beside"]:
            for name, (who, flags) in commands.items():
                with busy_processes(beside):
                    seconds = run(who, flags, arguments)["step_s"]
                report["commands"][name][str(beside)].append(seconds)
                print(f"round {round_number + 1}, {beside} beside: {name}: {seconds:.3f} s", file=sys.stderr)
    print(table(report))
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
