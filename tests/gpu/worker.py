#!/usr/bin/env python3
"""One section of run.py in a process of its own: `worker.py SECTION SETTINGS_JSON`.

It writes a JSON line for each finding. A case that takes the process or the GPU's context down is found out by the line
that announced it, and run.py starts another process behind it. Where its seconds are over it says before which case.
"""

import json
import pathlib
import sys
import time

LOST = 3  # exit code: the GPU's context is gone, the case that did it is on record


class Context:
    """A section's settings, and where its findings go."""

    def __init__(self, settings):
        self.settings = settings
        self.cpu = settings["cpu"]
        self.device = "cpu" if self.cpu else "cuda"
        self.full = settings.get("full", False)
        self.start = settings.get("start", 0)
        self.end = time.monotonic() + settings.get("seconds", 60.0)
        self.tools = pathlib.Path(settings["tools"])  # the folder `gpu` of the build
        self.lines = open(settings["lines"], "a", encoding="utf-8")
        self.through = True  # until a case finds no time

    def write(self, **line):
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()

    def left(self):
        return self.end - time.monotonic()

    def each(self, items, check):
        """check(*item) of (number, item) from number `start` on, each announced, while there is time. What raises is on
        record; only what takes the GPU's context with it ends the process."""
        import torch

        for number, item in items:
            if number < self.start:
                continue
            name = ", ".join(str(getattr(part, "name", part)) for part in item)
            if self.left() <= 0:
                self.write(stopped=number, case=name)
                self.through = False
                return
            self.write(begin=number, case=name)
            try:
                check(*item)
                if self.device == "cuda":
                    torch.cuda.synchronize()
            except Exception as error:
                self.write(case=name, wrong=[f"{type(error).__name__}: {str(error)[:500]}"])
                if self.device == "cuda" and not context_is_whole():
                    sys.exit(LOST)


def context_is_whole():
    import torch

    try:
        torch.ones(1, device="cuda").sum().item()
        return True
    except Exception:
        return False


def load_library(tools):
    """The operators of the library that the build's folder `gpu` names, and of the benchmark's own, if it was built."""
    import torch

    torch.ops.load_library((tools / "library").read_text().strip())
    ops = next(tools.glob("*rora_gpu_ops*"), None)
    if ops:
        torch.ops.load_library(ops)


def main():
    section, settings = sys.argv[1], json.loads(sys.argv[2])
    context = Context(settings)
    import torch

    torch.set_num_threads(settings.get("threads", torch.get_num_threads()))
    load_library(context.tools)
    import checks
    import linears

    sections = {"parity": checks.parity, "determinism": checks.determinism, "dropout": checks.dropout,
                "masks": checks.masks, "sanitize": checks.sanitize, "layer": linears.layer,
                "linears": linears.each, "compile": linears.compile_ahead}
    sections[section](context)
    if context.through:
        context.write(done=True)


if __name__ == "__main__":
    main()
