#!/usr/bin/env python3
"""Which form of a deep and a thin product is the fastest, shape by shape of LLaMA-3-8B: within one call of 3 minutes.

    python3 tests/gpu/tune.py --build BUILD --output tune.json --write
    python3 tests/gpu/tune.py --build BUILD --cpu         tiny sizes, without a GPU: only that it works

The sums are the forward x·Wᵀ + s·Bᵀ and the input's gradient dy·W + ds·A, the most wanted first. The library reads
RORA_CUDA_SUM once a process, so each form has one: a GEMM for each product, or one kernel with tiles of 128x128 or of
128x256. They take turns, round by round, and the medians count. A form is checked against a product in float32 before
it is timed. Beside them stand, for information, the frozen product alone, and one product over longer rows, [x | s] and
[W | B] as views into wider buffers.

The gradients of what q, k and v, or gate and up, read are timed with dy, W, ds and A side by side, which is one product
(`leave_room_beside_weights`), and apart; so are the copies of A and B that each pass makes there.

The thin passes are S = s·x·Aᵀ, dS and dB from one dy, and dA, by kernels of rora's own or by matrix products
(RORA_CUDA_THIN, which two of the processes have), with torch.matmul for information.

--write makes src/ops/cuda/tuned_sums.inc of it, or another file, and tuned_thin.inc beside that: what the library takes
where nothing is asked for. What is not its first choice is taken where it is faster by more than 1%. Exit code: 1 where
a form is wrong, 2 where nothing can be written, 77 where Python lacks torch.
"""

import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import time

from children import end_with_this_process, running
from progress import HERE, library_of, write_whole

ROOT = HERE.parents[1]
TABLE = ROOT / "src" / "ops" / "cuda" / "tuned_sums.inc"
THIN_TABLE = "tuned_thin.inc"  # beside it
# By number in the table: the name, and RORA_CUDA_SUM. Unset, that would take the table itself.
FORMS = (("a GEMM each", "gemms"), ("128x128", "128x128"), ("128x256", "128x256"))
# The same of RORA_CUDA_THIN; the process of the first form of a sum has the first of these, and so on.
THIN_FORMS = ("kernels", "products")
PASSES = {"shrink": "kShrink", "gradient_b": "kGradientB", "gradient_a": "kGradientA"}
RANKS = (16, 64, 8, 32, 128, 256)
MOST_RANK = 128  # of the library's own kernels of thin passes: beyond it, products form them
GROUPS = ((4096, (4096, 1024, 1024)), (4096, (14336, 14336)), (14336, (4096,)), (4096, (4096,)))  # in, outs
PROJECTIONS = ((4096, 14336), (14336, 4096), (4096, 4096), (4096, 1024), (4096, 6144), (4096, 28672))  # in, out
MOST_ERROR = {"sum": 5e-3, "thin": 1e-2}  # by norm, against float32: bfloat16 rounds to 2^-9
FASTER = 0.99
LONGEST = 60.0  # seconds that no answer takes


class Form:
    """A process that times one form."""

    def __init__(self, number, settings):
        self.number, self.settings, self.process, self.pending = number, settings, None, b""

    def start(self):
        environment = {**os.environ, "RORA_CUDA_SUM": FORMS[self.number][1],
                       "RORA_CUDA_THIN": THIN_FORMS[min(self.number, 1)]}
        settings = {**self.settings, "more": self.number == 0}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "tune_worker.py"), json.dumps(settings)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=environment, start_new_session=True)
        running.add(self.process.pid)
        self.pending = b""

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            running.discard(self.process.pid)
            self.process = None

    def send(self, **asked):
        if not self.process:
            self.start()
        try:
            self.process.stdin.write((json.dumps(asked) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # then there is no answer either

    def answer(self):
        """What the process says; after `failed` it is gone, and the next shape starts another."""
        end = time.monotonic() + LONGEST
        while self.process and b"\n" not in self.pending:
            ready, _, _ = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))
            more = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not more:
                self.stop()
                return {"failed": "the process ended" if ready else f"no answer in {LONGEST:.0f} s"}
            self.pending += more
        if not self.process:
            return {"failed": "the process is gone"}
        line, self.pending = self.pending.split(b"\n", 1)
        found = json.loads(line)
        if "failed" in found:
            self.stop()
        return found


class Tuning:
    def __init__(self, arguments, machine):
        self.arguments, self.cpu = arguments, arguments.cpu
        self.end = time.monotonic() + arguments.budget
        build = pathlib.Path(arguments.build).resolve()
        settings = {"device": "cpu" if self.cpu else "cuda", "tools": str(build / "gpu"),
                    "threads": 1 if self.cpu else 4}
        self.forms = [Form(number, settings) for number in range(len(FORMS))]
        self.rounds, self.samples = (1, 2) if self.cpu else (3, 8)
        self.tokens = 48 if self.cpu else 8192
        self.found = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                      "machine": machine, "library": library_of(build), "tokens": self.tokens, "sums": [],
                      "input_gradients": [], "copies": [], "thin": [],
                      "failed": [], "left_out": []}

    def units(self):
        """What is measured, the most wanted first."""
        projections, ranks = (((64, 48),), (8,)) if self.cpu else (PROJECTIONS, RANKS)
        seen = set()
        groups = ((64, (48, 16)),) if self.cpu else GROUPS
        for rank in ranks:
            for forward in (True, False):
                for k, n in projections:
                    yield self.measure_sum, dict(k=k, n=n, rank=rank, forward=forward)
            for k, outs in groups if rank <= MOST_RANK else ():
                yield self.measure_input_gradient, dict(k=k, outs=list(outs), rank=rank)
                yield self.measure_copies, dict(k=k, outs=list(outs), rank=rank)
            for k in dict.fromkeys(k for k, _ in projections):
                # Projections that read one x have their ranks side by side: q, k and v, or gate and up.
                for together in (rank, 3 * rank, 2 * rank) if k == projections[0][0] else (rank,):
                    for name in ("shrink", "gradient_a"):
                        if together <= MOST_RANK and (k, together, name) not in seen:
                            seen.add((k, together, name))
                            yield self.measure_thin, dict(k=k, n=0, rank=together, name=name)
            for n in dict.fromkeys(n for _, n in projections) if rank <= MOST_RANK else ():
                yield self.measure_thin, dict(k=0, n=n, rank=rank, name="gradient_b")

    def wrong(self, what, text):
        self.found["failed"].append({"case": what, "wrong": text})
        print(f"{what}: {text}", flush=True)

    def measure_sum(self, **shape):
        name = name_of(shape)
        for form in self.forms:
            form.send(do="prepare", tokens=self.tokens, **shape)
        prepared = [form.answer() for form in self.forms]
        timed = []
        for form, found in zip(self.forms, prepared):
            wrong = [f"{found['failed']}"] if "failed" in found else [
                f"{what}: error {each:.1e}" for what, each in found["errors"].items()
                if not each <= MOST_ERROR["sum"]]
            if wrong:
                self.wrong(f"{name}, {FORMS[form.number][0]}", "; ".join(wrong))
            else:
                timed.append(form)
        taken = [{} for _ in FORMS]
        for _ in range(self.rounds):
            for form in timed:
                if not form.process:
                    continue
                form.send(do="time", count=self.samples)
                found = form.answer()
                if "failed" in found:
                    self.wrong(f"{name}, {FORMS[form.number][0]}", found["failed"])
                    taken[form.number] = {}
                for what, times in found.get("us", {}).items():
                    taken[form.number].setdefault(what, []).extend(times)
        medians = [{what: statistics.median(times) for what, times in each.items()} for each in taken]
        # A form with the bits of the GEMMs is one that the kernel did not take.
        is_own = [number == 0 or found.get("digest") != prepared[0].get("digest")
                  for number, found in enumerate(prepared)]
        forms = [each.get("form") for each in medians]
        own = dict(**shape, forms=forms, is_own=is_own, frozen=medians[0].get("frozen"),
                   longer_rows=medians[0].get("longer rows"), errors=[each.get("errors") for each in prepared])
        own["choice"] = choice(forms, is_own)
        self.found["sums"].append(own)

    def measure_input_gradient(self, **shape):
        what = f"{shape['k']} ← {shape['outs']}, rank {shape['rank']}"
        first = self.forms[0]
        first.send(do="input_gradient", tokens=self.tokens, count=self.rounds * self.samples, **shape)
        found = first.answer()
        if "failed" in found:
            self.wrong(what, found["failed"])
            return
        for name, each in found["errors"].items():
            if not each <= MOST_ERROR["sum"]:
                self.wrong(f"{what}, {name}", f"error {each:.1e}")
        self.found["input_gradients"].append({**shape, **found})

    def measure_copies(self, **shape):
        what = f"copies of A and B, {shape['k']} → {shape['outs']}, rank {shape['rank']}"
        first = self.forms[0]
        first.send(do="copies", count=self.rounds * self.samples, **shape)
        found = first.answer()
        if "failed" in found:
            self.wrong(what, found["failed"])
            return
        for name, is_right in found["is_right"].items():
            if not is_right:
                self.wrong(what, f"{name} is not what was copied")
        self.found["copies"].append({**shape, "us": found["us"]})

    def measure_thin(self, **shape):
        what = f"{shape['name']} of {shape['k'] or shape['n']}, rank {shape['rank']}"
        own = dict(**shape, forms=[None, None], errors=[None, None], matmul=None)
        for number, name in enumerate(THIN_FORMS):
            form = self.forms[number]
            form.send(do="thin", tokens=self.tokens, count=self.rounds * self.samples, **shape)
            found = form.answer()
            if "failed" in found:
                self.wrong(f"{what}, {name}", found["failed"])
                continue
            own["errors"][number] = found["error"]
            if not found["error"] <= MOST_ERROR["thin"]:
                self.wrong(f"{what}, {name}", f"error {found['error']:.1e}")
                continue
            own["forms"][number] = found["us"]["rora"]
            own["matmul"] = own["matmul"] or found["us"]["matmul"]
        own["choice"] = choice(own["forms"], [True, True])
        self.found["thin"].append(own)

    def run(self):
        """Each unit takes no longer than the longest of its kind before, or there is no time for it."""
        longest = {}
        for form in self.forms:
            form.start()
        for measure, shape in self.units():
            begin = time.monotonic()
            if begin + longest.get(measure.__name__, 0.0) > self.end:
                self.found["left_out"].append(shape)
                continue
            measure(**shape)
            taken = time.monotonic() - begin
            if longest or self.cpu:  # the first has the processes to wait for
                longest[measure.__name__] = max(longest.get(measure.__name__, 0.0), taken)
            else:
                longest[measure.__name__] = 0.2 * taken
            if self.arguments.output:
                write_whole(pathlib.Path(self.arguments.output), json.dumps(self.found, indent=1) + "\n")
        for form in self.forms:
            form.stop()


def choice(forms, is_own):
    """The number of the form to take; none where one was not measured. GEMMs, but for a kernel that is clearly faster.
    """
    if None in forms:
        return None
    best = min((number for number in range(len(forms)) if is_own[number]), key=lambda number: forms[number])
    return best if forms[best] < FASTER * forms[0] else 0


def name_of(shape):
    k, n = shape["k"], shape["n"]
    return f"{k} → {n}, rank {shape['rank']}" if shape["forward"] else f"{k} ← {n}, rank {shape['rank']}"


def us(value):
    return "–" if value is None else f"{value:.1f}"


def table(found):
    lines = [f"Microseconds of sums of {found['tokens']} tokens, bfloat16, {found['machine']['device']}; → is x·Wᵀ + "
             "s·Bᵀ, ← dy·W + ds·A.", "",
             f"| sum | frozen | {' | '.join(name for name, _ in FORMS)} | longer rows | taken |",
             "|---|---|" + "---|" * (len(FORMS) + 2)]
    for each in found["sums"]:
        forms = [us(value) if own else "not taken" for value, own in zip(each["forms"], each["is_own"])]
        taken = "–" if each["choice"] is None else FORMS[each["choice"]][0]
        lines.append(f"| {name_of(each)} | {us(each['frozen'])} | {' | '.join(forms)} | {us(each['longer_rows'])} | "
                     f"{taken} |")
    if found["input_gradients"]:
        lines += ["", "| dx | of | rank | apart | in one |", "|---|---|---|---|---|"]
    for each in found["input_gradients"]:
        lines.append(f"| {each['k']} | {', '.join(map(str, each['outs']))} | {each['rank']} | {us(each['us']['apart'])} | "
                     f"{us(each['us']['joined'])} |")
    if found["copies"]:
        lines += ["", "| copies a pass | of | rank | A | B |", "|---|---|---|---|---|"]
    for each in found["copies"]:
        lines.append(f"| {each['k']} | {', '.join(map(str, each['outs']))} | {each['rank']} | {us(each['us']['A'])} | "
                     f"{us(each['us']['B'])} |")
    if found["thin"]:
        lines += ["", f"| thin pass | of | rank | {' | '.join(THIN_FORMS)} | torch.matmul | taken |",
                  "|---|---|---|---|---|---|---|"]
    for each in found["thin"]:
        taken = "–" if each["choice"] is None else THIN_FORMS[each["choice"]]
        lines.append(f"| {each['name']} | {each['k'] or each['n']} | {each['rank']} | "
                     f"{' | '.join(map(us, each['forms']))} | {us(each['matmul'])} | {taken} |")
    return "\n".join(lines)


def power_of_two_from(size):
    return 1 << (size - 1).bit_length()


def origin(found):
    machine = found["machine"]
    return (f"// {machine['device']}, {found['date'][:10]}, torch {machine['torch']}, CUDA {machine['cuda']}; "
            "by tests/gpu/tune.py")


def initialisers(found):
    """A table that the library reads: TunedSum's fields of src/ops/cuda/fastest_form.h."""
    lines = [origin(found)]
    for each in found["sums"]:
        if each["choice"] is not None:
            depth, columns = (each["k"], each["n"]) if each["forward"] else (each["n"], each["k"])
            transposed = "true" if each["forward"] else "false"  # W lies as [n, k], and x takes Wᵀ for its right side
            lines.append(f"{{{power_of_two_from(found['tokens'])}, {columns}, {depth}, {each['rank']}, {transposed}, "
                         f"false, {each['choice']}}},")
    return "\n".join(lines) + "\n"


def thin_initialisers(found):
    """The other: TunedThin's fields."""
    lines = [origin(found)]
    for each in found["thin"]:
        if each["choice"] is not None:
            lines.append(f"{{ThinPass::{PASSES[each['name']]}, {power_of_two_from(found['tokens'])}, "
                         f"{each['k'] or each['n']}, {each['rank']}, {each['choice']}}},")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "gpu"), help="a build that has the target rora_gpu")
    parser.add_argument("--budget", type=float, default=170.0, help="seconds in all")
    parser.add_argument("--output", help="a JSON file")
    parser.add_argument("--write", nargs="?", const=str(TABLE), metavar="FILE", help=f"default: {TABLE.name}'s place")
    parser.add_argument("--cpu", action="store_true", help="tiny sizes, without a GPU")
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("skipped: this Python has no torch")
        return 77
    import torch

    import report

    if arguments.cpu and arguments.write:
        parser.error("--write is for what a GPU has measured, not for --cpu")
    if not arguments.cpu and not torch.cuda.is_available():
        print("there is no GPU here; --cpu runs what can run without one")
        return 1
    if not (pathlib.Path(arguments.build) / "gpu" / "library").exists():
        print(f"{arguments.build}: it has no gpu/library, which the target rora_gpu makes")
        return 1
    built = pathlib.Path(arguments.build) / "gpu" / "cutlass"
    has_kernel = built.exists() and built.read_text().strip() == "1"
    if arguments.write and torch.cuda.get_device_capability() != (9, 0):
        print("--write: the tables are for GPUs of compute capability 9.0")
        return 2
    if arguments.write and not has_kernel:
        print("--write: the one kernel is built with CUTLASS's headers; only the table of thin passes will be written")
    end_with_this_process()
    tuning = Tuning(arguments, report.machine(arguments.cpu))
    tuning.run()
    found = tuning.found
    print(table(found))
    if found["left_out"]:
        print(f"{len(found['left_out'])} were left out: there was no time")
    if arguments.write and found["sums"] and has_kernel:
        write_whole(pathlib.Path(arguments.write), initialisers(found))
    if arguments.write and found["thin"]:
        write_whole(pathlib.Path(arguments.write).with_name(THIN_TABLE), thin_initialisers(found))
    return 1 if found["failed"] or not found["sums"] else 0


if __name__ == "__main__":
    sys.exit(main())
