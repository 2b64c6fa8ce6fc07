"""The sections of run.py that worker.py carries out in processes of its own: checks, sanitizers and benchmarks."""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

from children import child, program, tail
from progress import BEFORE, HERE, finished, merged, summary_of

ROOT = HERE.parents[1]
LOST = 3  # worker.py's
GRACE = 10.0  # seconds behind its time in which a worker has to end by itself
HANGS = 30.0  # seconds that no case takes
# Their products go to cuBLASLt, whose kernels racecheck itself fails on ("failed to handle a hardware exception").
BY_CUBLASLT = ("sum_of_products", "sum_of_products_", "low_rank_linear")


def lines_of(path):
    """Those that are written to their ends."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


class Command:
    """What the sections share. A section's limit is the seconds that it may take but for GRACE."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.cpu = arguments.cpu
        self.cores = os.cpu_count() or 1
        self.build_folder = pathlib.Path(arguments.build or ROOT / "build" / "gpu").resolve()
        self.report = None  # once it is built

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
        return {"ok": True}

    def worker(self, section, limit, prefix=(), environment=None, start=0, partly=lambda lines: None, **more):
        """A section of worker.py, begun anew behind each case that ended it: (its lines, how its processes ended).
        `partly` gets the lines so far now and then. Where it did not come through, the last line says where to go on.
        """
        lines, ends, first, end = [], [], start, time.monotonic() + limit
        threads = 1 if self.cpu else max(1, self.cores // 4)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lines"
            while True:
                path.write_text("")
                left = end - time.monotonic()
                settings = {"cpu": self.cpu, "full": self.arguments.full, "start": start, "threads": threads,
                            "seconds": left, "tools": str(self.build_folder / "gpu"), "lines": str(path), **more}
                code, out, err = child(
                    [*prefix, sys.executable, HERE / "worker.py", section, json.dumps(settings)], left + GRACE,
                    environment, lambda: partly(lines + finished(lines_of(path), start)))
                own = lines_of(path)
                ends.append({"code": code, "output": out + err})
                if any("done" in line or "stopped" in line for line in own):
                    return lines + own, ends
                begun = [line for line in own if "begin" in line]
                where, number = (begun[-1]["case"], begun[-1]["begin"]) if begun else (BEFORE, None)
                if code is None and (len(begun) != 1 or number != first or left < HANGS):
                    return lines + finished(own, start), ends
                lines += own
                if code is None:  # whoever goes on would stop here again
                    lines.append({"case": where, "wrong": [f"it did not end within {left:.0f} s"]})
                elif code != LOST:
                    lines.append({"case": where, "wrong": [f"the process ended with {code}: {tail(err, 600)}"]})
                start = start if number is None else number + 1
                if number is None or len(ends) > 40 or end - time.monotonic() < 5:
                    return [*lines, {"stopped": start, "case": f"behind {where}" if begun else BEFORE}], ends

    def checks(self, name, limit, section=None, **more):
        """A section of cases, from where an earlier call stopped."""
        before = self.report.of(name)
        start = before.get("stopped", {}).get("start", 0)
        lines, _ = self.worker(section or name, limit, start=start, **more,
                               partly=lambda lines: self.report.keep(name, merged(before, summary_of(lines))))
        return merged(before, summary_of(lines))

    def one_kernel(self, tile, limit):
        """The parity of what calls sums where one kernel with this tile forms a deep and a thin product."""
        import torch

        built = self.build_folder / "gpu" / "cutlass"
        if torch.cuda.get_device_capability() != (9, 0) or not built.exists() or built.read_text().strip() != "1":
            return {"unavailable": "it is built with CUTLASS's headers, for compute capability 9.0"}
        return self.checks(f"parity, {tile}", limit, "parity", environment={"RORA_CUDA_SUM": tile},
                           operators=BY_CUBLASLT)

    def sanitizer(self, tool, limit):
        """A worker under compute-sanitizer, which looks at rora's kernels alone where it can choose."""
        sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not pathlib.Path(sanitizer).exists():
            return {"unavailable": "compute-sanitizer is not installed"}
        _, described, _ = child([sanitizer, "--help"], 20)
        chosen = next((["--" + option, "kns=rora"] for option in ("kernel-regex", "kernel-name")
                       if "--" + option in described), [])
        left_out = list(BY_CUBLASLT) if tool == "racecheck" else []
        before = self.report.of(tool)
        start = before.get("stopped", {}).get("start", 0)

        def summary(lines):
            return {**merged(before, summary_of(lines)), "options": chosen, "left out": left_out}

        lines, ends = self.worker(
            "sanitize", limit, prefix=[sanitizer, "--tool", tool, "--error-exitcode", "9", *chosen], start=start,
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, left_out=left_out,
            partly=lambda lines: self.report.keep(tool, summary(lines)))
        output = "\n".join(end["output"] for end in ends)
        found = summary(lines)
        if found["cases"] <= 1 and found["failed"]:
            return {"unavailable": tail(output)}
        reports = [line for line in output.splitlines() if line.startswith("=========") and line.strip("= ")]
        found["summary"] = reports[-1].strip("= ") if reports else "no summary"
        if any(end["code"] not in (0, None) for end in ends):
            found["report"] = (before.get("report", []) + reports)[:60]
        found["ok"] = found["ok"] and "report" not in found
        return found

    def compile_ahead(self, limit):
        """Fills the compiler's cache with what the benchmark's compiled rows will want."""
        lines, _ = self.worker("compile", limit)
        return {"complete": any("done" in line for line in lines),
                "compiled": [line["compiled"] for line in lines if "compiled" in line],
                "failed": [line for line in lines if line.get("wrong")]}

    def benchmark(self, name, limit, section=None, **more):
        """Its blocks, but those that are known."""
        before = self.report.of(name).get("blocks", [])
        known = [[block[key] for key in ("tokens", "shapes", "rank", "dropout")] for block in before]

        def summary(lines):
            failed = [line for line in lines if line.get("wrong")]
            done = any("done" in line for line in lines)
            return {"complete": done and not failed, "full": self.arguments.full,
                    "blocks": before + [line["block"] for line in lines if "block" in line],
                    "left_out": [line["left_out"] for line in lines if "left_out" in line], "failed": failed}

        lines, _ = self.worker(section or name, limit, known=known, threads=self.cores, **more,
                               partly=lambda lines: self.report.keep(name, summary(lines)))
        return summary(lines)
