#!/usr/bin/env python3
"""The proof on a GPU, in one command: builds rora from this tree and checks and times it on the machine's GPU.

    python3 tests/gpu/run.py                      on a machine with an NVIDIA GPU (8.0 or newer); under 8 minutes
    python3 tests/gpu/run.py --cpu                the same checks of tiny sizes on the CPU, in a minute
    python3 tests/gpu/run.py --full               the whole grid of the benchmark, for as long as it takes
    python3 tests/gpu/run.py --table REPORT.json  draws the tables of bench/README.md from a report

It needs a Python with torch 2.11 or newer (for CUDA) and PEFT, CMake 3.25, ninja, a C++20 compiler and, for a GPU, the
CUDA toolkit of torch's version; nothing else, and no network. Settings of the GPU are read and never changed. What it
finds goes into one JSON file (--output), section by section, and a summary to the terminal:

    parity       every operator against the CPU (float32) and eager bfloat16's error; odd sizes, strides, gradients; of one
                 size in float16 too, which LibTorch's operations compute
    determinism  the same bits over ten runs of each operator
    dropout      the mask is the CPU's, bit for bit
    masks        so are those of the operators that apply it inside
    memcheck, racecheck, initcheck      the operators of small sizes under compute-sanitizer, where it works
    training     gpu_step on the CPU and on the GPU: the same losses; ten runs with the same bits; LoRA at RoRA's scale; no
                 wait for the GPU but where the loss is read; steps captured in CUDA graphs: the bits of the
                 same steps without
    parity, 128x128 and 128x256     the first once more where one kernel forms W*x + B*S, if it was built (CUTLASS)
    layer, linears, step    the benchmark: projections beside PEFT's, addmm and the frozen products; a whole step
    layer, fastest form     the layer once more where that kernel is taken whenever one trial found it faster

A section that fails or runs out of time stops no other. Exit code: 0 where parity, determinism, dropout, masks and
training hold, and so does what compute-sanitizer could look at, 1 where one does not, 77 where Python lacks torch, PEFT or
transformers. Speed and memory are recorded, with the goals
beside them, and fail nothing.
"""

import argparse
import concurrent.futures
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REQUIRED = ("parity", "determinism", "dropout", "masks", "training")
SANITIZERS = ("memcheck", "racecheck", "initcheck")
LOST = 3  # worker.py's


def child(command, limit, environment=None):
    """Runs a command for `limit` seconds at most: (exit code or None, stdout, stderr)."""
    process = subprocess.Popen(
        [str(each) for each in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **(environment or {})}, start_new_session=True)
    try:
        out, err = process.communicate(timeout=max(limit, 1))
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # ninja then ends its compilers, which are in groups of their own
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        return None, out, err


def program(name):
    """A tool of the PATH, or of the environment that this Python is of."""
    beside = pathlib.Path(sys.executable).with_name(name)
    return shutil.which(name) or (str(beside) if beside.exists() else name)


def tail(text, count=1500):
    return text.strip()[-count:]


class Command:
    """What the sections share."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.cpu = arguments.cpu
        self.begin = time.monotonic()
        self.cores = os.cpu_count() or 1
        self.build_folder = pathlib.Path(arguments.build or ROOT / "build" / "gpu").resolve()

    def left(self):
        return self.arguments.budget - (time.monotonic() - self.begin)

    def build(self):
        """The library and gpu_step, from the tree alone."""
        if self.arguments.build:
            return {"ok": True, "given": str(self.build_folder)}
        import torch

        options = ["-DCMAKE_BUILD_TYPE=Release", "-DRORA_LIBTORCH_ONLY=ON",
                   f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
                   f"-DCMAKE_MAKE_PROGRAM={program('ninja')}"]
        if not self.cpu:
            major, minor = torch.cuda.get_device_capability()
            options.append(f"-DTORCH_CUDA_ARCH_LIST={major}.{minor}{'a' if major >= 9 else ''}")
        cmake = program("cmake")
        steps = ([cmake, "-S", ROOT, "-B", self.build_folder, "-G", "Ninja", *options],
                 [cmake, "--build", self.build_folder, "--target", "rora_gpu", "--parallel", self.cores])
        begin = time.monotonic()
        for step in steps:
            code, out, err = child(step, self.arguments.build_limit - (time.monotonic() - begin))
            if code != 0:
                what = "ran out of time" if code is None else f"failed with {code}"
                return {"ok": False, "failed": [f"{' '.join(map(str, step[:3]))} {what}"],
                        "output": tail(out + err, 6000)}
        return {"ok": True, "seconds": round(time.monotonic() - begin, 1)}

    def worker(self, section, limit, prefix=(), environment=None, **more):
        """A section of worker.py, begun anew behind each case that ended it: (its lines, how it ended)."""
        lines, ends, start, end = [], [], 0, time.monotonic() + limit
        threads = 1 if self.cpu else max(1, self.cores // 4)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lines"
            while True:
                path.write_text("")
                settings = {"cpu": self.cpu, "full": self.arguments.full, "start": start, "threads": threads,
                            "tools": str(self.build_folder / "gpu"), "lines": str(path), **more}
                code, out, err = child([*prefix, sys.executable, HERE / "worker.py", section, json.dumps(settings)],
                                       end - time.monotonic(), environment)
                own = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
                lines += own
                ends.append({"code": code, "output": out + err})
                if any("done" in line for line in own):
                    break
                begun = [line for line in own if "begin" in line]
                where = begun[-1]["case"] if begun else "before its first case"
                if code is None:
                    lines.append({"case": where, "wrong": [f"the section ran out of its {limit:.0f} s here"]})
                    break
                if code != LOST:
                    lines.append({"case": where, "wrong": [f"the process ended with {code}: {tail(err, 600)}"]})
                if not begun or len(ends) > 40 or end - time.monotonic() < 5:
                    break
                start = begun[-1]["begin"] + 1
        return lines, ends

    def checks(self, section, limit, environment=None):
        lines, _ = self.worker(section, limit, environment=environment)
        found = summary_of(lines)
        for line in lines:
            if "registered_for_cuda" in line:
                found.update(line)
        return found

    def one_kernel(self, tile, limit):
        """The operators' parity where one kernel with this tile forms a deep and a thin product."""
        import torch

        built = self.build_folder / "gpu" / "cutlass"
        if torch.cuda.get_device_capability() != (9, 0) or not built.exists() or built.read_text() != "1":
            return {"unavailable": "it is built with CUTLASS's headers, for compute capability 9.0"}
        return self.checks("parity", limit, {"RORA_CUDA_SUM": tile})

    def sanitizer(self, tool, limit):
        """A worker under compute-sanitizer, which looks at rora's kernels alone where it can choose."""
        sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not pathlib.Path(sanitizer).exists():
            return {"unavailable": "compute-sanitizer is not installed"}
        _, described, _ = child([sanitizer, "--help"], 20)
        chosen = next((["--" + option, "kns=rora"] for option in ("kernel-regex", "kernel-name")
                       if "--" + option in described), [])
        lines, ends = self.worker(
            "sanitize", limit, prefix=[sanitizer, "--tool", tool, "--error-exitcode", "9", *chosen],
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        output = "\n".join(end["output"] for end in ends)
        found = summary_of(lines)
        if found["cases"] <= 1 and found["failed"]:
            return {"unavailable": tail(output)}
        reports = [line for line in output.splitlines() if line.startswith("=========") and line.strip("= ")]
        found["summary"] = reports[-1].strip("= ") if reports else "no summary"
        found["options"] = chosen
        if any(end["code"] != 0 for end in ends):
            found["ok"], found["report"] = False, reports[:60]
        return found

    def compile_ahead(self, limit):
        """Fills the compiler's cache with what the benchmark's compiled rows will want."""
        lines, _ = self.worker("compile", limit)
        return {"compiled": [line["compiled"] for line in lines if "compiled" in line],
                "failed": [line for line in lines if line.get("wrong")]}

    def benchmark(self, section, limit, environment=None):
        lines, _ = self.worker(section, limit + 30, environment=environment, seconds=limit, threads=self.cores)
        return {"blocks": [line["block"] for line in lines if "block" in line],
                "left_out": [line["left_out"] for line in lines if "left_out" in line],
                "failed": [line for line in lines if line.get("wrong")]}


def summary_of(lines):
    """Cases counted, those that failed in full, and the worst figures by operator."""
    cases = [line for line in lines if "wrong" in line]
    operators = {}
    for line in cases:
        for figures in (line.get("figures") or {}).values():
            worst = operators.setdefault(line["case"].split(",")[0], {})
            if "eager's" in figures:
                own, eager = figures["against float64"][0], figures["eager's"][0]
                if eager > 1e-4:
                    worst["bf16_error_by_eagers"] = max(worst.get("bf16_error_by_eagers", 0), round(own / eager, 3))
            else:
                worst["fp32_error"] = max(worst.get("fp32_error", 0), *(each[0] for each in figures.values()))
    failed = [{"case": line["case"], "wrong": line["wrong"]} for line in cases if line["wrong"]]
    done = any("done" in line for line in lines)
    return {"ok": done and not failed, "cases": len(cases), "failures": len(failed), "failed": failed[:100],
            "operators": operators}


def timed(function, *arguments):
    begin = time.monotonic()
    try:
        found = function(*arguments)
    except Exception as error:  # a section of its own: the others go on
        found = {"ok": False, "failed": [f"{type(error).__name__}: {error}"]}
    found["seconds"] = round(time.monotonic() - begin, 1)
    return found


def run(arguments):
    import report
    import steps

    command = Command(arguments)
    found = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
             "machine": report.machine(command.cpu), "sections": {}}
    sections = found["sections"]

    def keep(name, result):
        sections[name] = result
        print(report.line(name, result), flush=True)
        pathlib.Path(arguments.output).write_text(json.dumps(found, indent=1) + "\n")

    def wanted(name):
        return not arguments.only or name in arguments.only

    pathlib.Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    keep("build", timed(command.build))
    if not sections["build"]["ok"]:
        print(sections["build"].get("output", ""))
        return 1
    # Without a GPU nothing is hurried: such machines are small, and run other tests beside.
    limit = 400 if command.cpu else max(60, min(140, command.left() - 100))
    beside = {name: (command.checks, name) for name in REQUIRED if name != "training"}
    beside["training"] = (steps.training, command)
    if not command.cpu:
        beside.update({name: (command.sanitizer, name) for name in SANITIZERS})
        beside["compile"] = (command.compile_ahead,)
        beside["compile, step"] = (steps.compile_ahead, command)
        for tile in ("128x128", "128x256"):
            beside[f"parity, {tile}"] = (command.one_kernel, tile)
    fastest = functools.partial(command.benchmark, environment={"RORA_CUDA_SUM": "timed"})
    benchmark = {"layer": (0.25, command.benchmark, "layer"), "layer, fastest form": (0.25, fastest, "layer"),
                 "step": (0.5, steps.step, command), "linears": (0.9, command.benchmark, "linears")}
    if command.cpu:  # its times mean nothing
        beside.update({name: call for name, (_, *call) in benchmark.items()})
        benchmark = {}
    # Nothing is timed yet: these run at once.
    with concurrent.futures.ThreadPoolExecutor(2 if command.cpu else len(beside)) as pool:
        running = {pool.submit(timed, *call, limit if name in REQUIRED else 100): name
                   for name, call in beside.items() if wanted(name)}
        for each in concurrent.futures.as_completed(running):
            keep(running[each], each.result())
    # The benchmark has the machine to itself, and shares what is left of the time.
    for name, (share, *call) in benchmark.items():
        if wanted(name):
            seconds = 3600 if arguments.full else share * command.left()
            if seconds < 5:
                keep(name, {"failed": ["there is no time left"], "seconds": 0.0})
                continue
            before = report.gpu_state()
            result = timed(*call, seconds)
            result["gpu_before"], result["gpu_after"] = before, report.gpu_state()
            keep(name, result)
    found["goals"] = report.goals(found)
    found["seconds"] = round(time.monotonic() - command.begin, 1)
    required = [*REQUIRED, *(name for name in SANITIZERS if "unavailable" not in sections.get(name, {"unavailable": ""}))]
    failed = [name for name in required if wanted(name) and not sections[name].get("ok")]
    found["passed"] = not failed
    pathlib.Path(arguments.output).write_text(json.dumps(found, indent=1) + "\n")
    if not command.cpu:
        print(report.table(found))
    verdict = f"FAILED: {', '.join(failed)}" if failed else "passed"
    print(f"{arguments.output}: {verdict}, {found['seconds']} s")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="tiny sizes, without a GPU")
    parser.add_argument("--full", action="store_true", help="the benchmark's whole grid")
    parser.add_argument("--build", help="a build that has the target rora_gpu; else one is made in build/gpu")
    parser.add_argument("--output", default=str(ROOT / "build" / "gpu_report.json"))
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections alone")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds in all")
    parser.add_argument("--build-limit", type=float, default=300.0, help="seconds of them for the build")
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
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
