#!/usr/bin/env python3
"""One form of tune.py in a process of its own, as the library reads RORA_CUDA_SUM once: `tune_worker.py SETTINGS_JSON`.

It answers each line of its input, JSON, by one line of JSON. It holds the tensors of one shape at a time.
"""

import json
import os
import pathlib
import statistics
import sys

import torch

from linears import Clock
from worker import load_library

SPARE = 256  # columns and rows that wider buffers have for thin operands: the highest rank
SCALE = 0.5  # of thin operands


def random(device, *sizes, scale=1.0):
    return (torch.randn(*sizes, device=device) * scale).bfloat16()


def error(found, wanted):
    return ((found.float() - wanted).norm() / wanted.norm()).item()


def digest(y):
    """A number that is another one, as good as surely, where a bit is."""
    bits = y.contiguous().view(torch.int16).flatten().long()
    places = torch.arange(bits.numel(), device=y.device) % 65521 + 1
    return (bits * places).sum().item()


class Sum:
    """x·Wᵀ + s·Bᵀ, or dy·W + ds·A: left sides `deep` and `thin`, right sides as the library's operators take them."""

    def __init__(self, device, tokens, k, n, rank, forward, more):
        torch.manual_seed(k * n + rank)
        depth, columns = (k, n) if forward else (n, k)
        self.deep, self.thin = random(device, tokens, depth), random(device, tokens, rank, scale=SCALE)
        weight = random(device, n, k, scale=depth**-0.5)
        thin_right = random(device, *((n, rank) if forward else (rank, k)), scale=rank**-0.5)
        self.right = [weight.t(), thin_right.t()] if forward else [weight, thin_right]
        self.reference = self.deep.float() @ self.right[0].float()
        self.reference.addmm_(self.thin.float(), self.right[1].float())
        self.runs = {"form": lambda: torch.ops.rora.sum_of_products([self.deep, self.thin], self.right)}
        if more:
            self.runs["frozen"] = lambda: torch.mm(self.deep, self.right[0])
            left, right = self.longer_rows(tokens, depth, columns, rank, forward)
            self.runs["longer rows"] = lambda: torch.mm(left, right)

    def longer_rows(self, tokens, depth, columns, rank, forward):
        """The same operands side by side, as views into wider buffers: one plain product."""
        both = depth + rank
        left = self.deep.new_zeros(tokens, depth + SPARE)[:, :both]
        left[:, :depth], left[:, depth:] = self.deep, self.thin
        if forward:
            right = self.deep.new_zeros(columns, depth + SPARE)[:, :both].t()
        else:
            right = self.deep.new_zeros(depth + SPARE, columns)[:both]
        right[:depth], right[depth:] = self.right
        return left, right

    def check(self):
        """The errors by norm against float32, and what tells the form's bits from another's."""
        y = self.runs["form"]()
        found = {"errors": {"form": error(y, self.reference)}, "digest": digest(y)}
        if "longer rows" in self.runs:
            found["errors"]["longer rows"] = error(self.runs["longer rows"](), self.reference)
        del self.reference
        return found


class InputGradient:
    """Σ dyᵢ·Wᵢ + ds·A of projections that read one x: with all of it side by side and below each other as in rows
    with room, which the library makes one product, and with each tensor in memory of its own."""

    def __init__(self, device, tokens, k, outs, rank):
        torch.manual_seed(k + rank)
        widths = [*outs, rank * len(outs)]
        dy = random(device, tokens, sum(widths))
        weights = random(device, sum(widths), k + SPARE, scale=sum(widths)**-0.5)[:, :k]
        joined = dy.split(widths, dim=1), weights.split(widths)
        apart = [[each.contiguous() for each in side] for side in joined]
        self.reference = dy.float() @ weights.float()
        self.runs = {"joined": lambda: torch.ops.rora.sum_of_products(*joined),
                     "apart": lambda: torch.ops.rora.sum_of_products(*apart)}

    def check(self):
        errors = {name: error(run(), self.reference) for name, run in self.runs.items()}
        del self.reference
        return errors


class Copies:
    """A and B of projections that read one x, in float32 as they are trained, into their places below and beside W in
    bfloat16: what a pass spends that an optimiser which wrote them there would spare."""

    def __init__(self, device, k, outs, rank):
        torch.manual_seed(k + rank)
        self.matrices = {"A": [random(device, rank, k).float() for _ in outs],
                         "B": [random(device, n, rank).float() for n in outs]}
        block = torch.zeros(sum(outs) + rank * len(outs), k + SPARE, device=device, dtype=torch.bfloat16)
        self.places = {"A": block[sum(outs):, :k].split(rank), "B": block[:sum(outs), k:k + rank].split(outs)}
        self.runs = {name: lambda name=name: torch.ops.rora.copy_padded_(self.places[name], self.matrices[name])
                     for name in self.places}

    def check(self):
        for run in self.runs.values():
            run()
        return {name: all(torch.equal(place, each.bfloat16()) for place, each in zip(self.places[name], matrices))
                for name, matrices in self.matrices.items()}


def thin_pass(device, tokens, k, n, rank, name):
    """(rora's operator with A and B in float32 as they are trained, the same by LibTorch's products of bfloat16, what
    they give in float32)."""
    op = torch.ops.rora
    if name == "shrink":
        x, a = random(device, tokens, k), random(device, rank, k, scale=k**-0.5).float()
        short = a.bfloat16()
        return lambda: [op.low_rank_shrink(x, a, 1.0)], lambda: [x @ short.t()], lambda: [x.float() @ a.t()]
    if name == "gradient_a":
        x, ds = random(device, tokens, k), random(device, tokens, rank)
        return (lambda: [op.low_rank_gradient_a(ds, x, torch.float32)], lambda: [ds.t() @ x],
                lambda: [ds.float().t() @ x.float()])
    dy, s, b = random(device, tokens, n), random(device, tokens, rank), random(device, n, rank, scale=n**-0.5).float()
    short = b.bfloat16()
    return (lambda: op.low_rank_gradient_b(dy, s, b, 1.0, [True, True]), lambda: [dy @ short, dy.t() @ s],
            lambda: [dy.float() @ b, dy.float().t() @ s.float()])


class Worker:
    def __init__(self, settings):
        self.device, self.settings = settings["device"], settings
        torch.set_num_threads(settings["threads"])
        torch.set_float32_matmul_precision("highest")
        load_library(pathlib.Path(settings["tools"]))
        self.clock = Clock(self.device)
        self.sum = None
        self.waits = {}

    def warm(self, runs):
        for _ in range(2):
            for name, run in runs.items():
                self.waits[name] = min(10.0, 0.3 + 1.5 * self.clock.host_ms(run))

    def microseconds(self, runs, count):
        """Samples of each, taking turns."""
        taken = {name: [] for name in runs}
        for _ in range(count):
            started = [(name, self.clock.start(run, self.waits[name])) for name, run in runs.items()]
            self.clock.synchronize()
            for name, finish in started:
                taken[name].append(1e3 * finish())
        return taken

    def prepare(self, tokens, k, n, rank, forward):
        self.sum = None
        if self.device == "cuda":
            torch.cuda.empty_cache()
        self.sum = Sum(self.device, tokens, k, n, rank, forward, self.settings["more"])
        found = self.sum.check()
        self.warm(self.sum.runs)
        return found

    def time(self, count):
        return {"us": self.microseconds(self.sum.runs, count)}

    def input_gradient(self, tokens, k, outs, rank, count):
        self.sum = None
        gradient = InputGradient(self.device, tokens, k, outs, rank)
        errors = gradient.check()
        self.warm(gradient.runs)
        taken = self.microseconds(gradient.runs, count)
        return {"errors": errors, "us": {each: statistics.median(times) for each, times in taken.items()}}

    def copies(self, k, outs, rank, count):
        self.sum = None
        copies = Copies(self.device, k, outs, rank)
        is_right = copies.check()
        self.warm(copies.runs)
        taken = self.microseconds(copies.runs, count)
        return {"is_right": is_right, "us": {each: statistics.median(times) for each, times in taken.items()}}

    def thin(self, tokens, k, n, rank, name, count):
        self.sum = None
        torch.manual_seed(rank)
        own, plain, wide = thin_pass(self.device, tokens, k, n, rank, name)
        errors = [error(found, wanted) for found, wanted in zip(own(), wide())]
        runs = {"rora": own, "matmul": plain}
        self.warm(runs)
        taken = self.microseconds(runs, count)
        return {"error": max(errors), "us": {each: statistics.median(times) for each, times in taken.items()}}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(json.loads(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = getattr(worker, asked.pop("do"))(**asked)
        except Exception as failure:
            found = {"failed": f"{type(failure).__name__}: {str(failure)[:300]}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
