#!/usr/bin/env python3
"""Compare a training step of rora with PEFT's on one machine, alternating the two.

Every setting runs for `--rounds` rounds; in each, every command once, in turn, so that a machine that drifts drifts for
all. Ratios are formed within a round; their median counts. Needs a Python with torch, transformers and PEFT, and a
quiet machine.

    bench/step.py --rora build/default/bin/rora --model SmolLM2-135M-Instruct --output bench/results/NAME.json

With `--beside OLD`, another build's binary, every setting of rora is measured by the same setting of that build instead,
and PEFT does not run.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys

PEFT_STEP = pathlib.Path(__file__).with_name("peft_step.py")
BFLOAT16 = ["--dtype", "bfloat16"]
RANK_16 = [*BFLOAT16, "--rank", "16"]

# name: (this command, the command it is measured by, the ratio that is asked for); each command is (who, flags).
COMPARISONS = {
    "bf16, rank 16": (("rora", RANK_16), ("peft", RANK_16), 0.42),
    "bf16, rank 16, compiled PEFT": (("rora", RANK_16), ("peft", [*RANK_16, "--compile"]), 0.5),
    "bf16, rank 16, 15% labelled": (
        ("rora", [*RANK_16, "--labelled", "0.15"]), ("peft", [*RANK_16, "--labelled", "0.15"]), 0.33),
    "bf16, rank 128 by own rank 16": (("rora", [*BFLOAT16, "--rank", "128"]), ("rora", RANK_16), 1.30),
    "bf16, DoRA by own RoRA": (("rora", [*RANK_16, "--dora"]), ("rora", RANK_16), 1.15),
    "bf16, rank 16 by own frozen": (("rora", RANK_16), ("rora", [*BFLOAT16, "--frozen"]), 1.18),
    "bf16, rank 16, --checkpointing selective by none": (
        ("rora", [*RANK_16, "--checkpointing", "selective"]), ("rora", RANK_16), 1.05),
    "f32, rank 16": (
        ("rora", ["--dtype", "float32", "--rank", "16"]), ("peft", ["--dtype", "float32", "--rank", "16"]), 0.85),
}


def run(who, flags, arguments):
    common = ["--model", arguments.model, "--steps", str(arguments.steps), "--threads", str(arguments.threads),
              "--batch", str(arguments.batch), "--seq", str(arguments.seq)]
    programs = {
        "rora": [arguments.rora, "bench"], "beside": [arguments.beside, "bench"], "peft": [sys.executable, str(PEFT_STEP)]}
    program = programs[who]
    finished = subprocess.run([*program, *common, *flags], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(program + flags)} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def beside_another_build():
    """The settings of rora among COMPARISONS, each measured by the other build at the same setting."""
    settings = {}
    for own, by, _ in COMPARISONS.values():
        for who, flags in (own, by):
            if who == "rora" and "--checkpointing" not in flags:  # which older builds lack
                settings[" ".join(flags)] = (("rora", flags), ("beside", flags), 1.02)
    return settings


def processor():
    """With its family and model: of two that are called the same, one may form a bfloat16 product at half the rate."""
    lines = [line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    said = {name.strip(): value.strip() for name, value in reversed(lines)}
    if "model name" not in said:
        return platform.processor()
    return f"{said['model name']}, family {said.get('cpu family', '?')}, model {said.get('model', '?')}"


def vector_flags():
    flags = next(l for l in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("flags")).split()
    return [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]


def make_parser(description, steps, batch=4, seq=256):
    """The flags that every script has which calls `run`; the numbers are defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rora", required=True, help="the binary")
    parser.add_argument("--model", required=True, help="a LLaMA folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps, help="timed steps a run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=batch, help="rows a step")
    parser.add_argument("--seq", type=int, default=seq, help="tokens a row")
    parser.add_argument("--output", help="where the JSON goes, beside the table on stdout")
    return parser


def main():
    parser = make_parser(__doc__, steps=4)
    parser.add_argument("--beside", metavar="OLD", help="another build's binary")
    parser.add_argument("--only", action="append", metavar="NAME", help="one row of the table; may be repeated")
    arguments = parser.parse_args()

    comparisons = beside_another_build() if arguments.beside else COMPARISONS
    if unknown := set(arguments.only or ()) - set(comparisons):
        parser.error(f"--only: no row is named {', '.join(unknown)}; there are {', '.join(comparisons)}")
    chosen = {name: each for name, each in comparisons.items() if not arguments.only or name in arguments.only}
    commands = []
    for own, by, _ in chosen.values():
        commands += [command for command in (own, by) if command not in commands]
    results = {index: [] for index in range(len(commands))}
    for round_number in range(arguments.rounds):
        for index, (who, flags) in enumerate(commands):
            found = run(who, flags, arguments)
            results[index].append(found)
            print(f"round {round_number + 1}: {who} {' '.join(flags)}: {found['step_s']:.3f} s, "
                  f"{found['peak_rss_mib']} MiB", file=sys.stderr)

    report = {
        "processor": processor(), "vectors": vector_flags(), "threads": arguments.threads, "rounds": arguments.rounds,
        "steps": arguments.steps, "batch": arguments.batch, "seq": arguments.seq, "comparisons": {},
    }
    print("| comparison | step | measured by | time ratio (least … most) | asked for | memory ratio |")
    print("|---|---|---|---|---|---|")
    for name, (own, by, asked) in chosen.items():
        own_runs, by_runs = results[commands.index(own)], results[commands.index(by)]
        ratios = sorted(a["step_s"] / b["step_s"] for a, b in zip(own_runs, by_runs))
        memory = statistics.median(a["peak_rss_mib"] for a in own_runs) / statistics.median(
            b["peak_rss_mib"] for b in by_runs)
        own_s = statistics.median(a["step_s"] for a in own_runs)
        by_s = statistics.median(b["step_s"] for b in by_runs)
        report["comparisons"][name] = {
            "asked_for": asked, "ratio": round(statistics.median(ratios), 4), "ratios": [round(r, 4) for r in ratios],
            "memory_ratio": round(memory, 4), "own": own_runs, "by": by_runs,
        }
        print(f"| {name} | {own_s:.3f} s | {by_s:.3f} s | {statistics.median(ratios):.3f} "
              f"({ratios[0]:.3f} … {ratios[-1]:.3f}) | {asked} | {memory:.2f} |")
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
