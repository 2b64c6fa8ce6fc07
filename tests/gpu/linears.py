"""The benchmark of projections, alone and as the seven of a LLaMA-3-8B layer: forward, and the gradients of x, A and B.

In one process, on the same tensors with the same scale and B ≠ 0, the rows take turns, sample by sample. A sample is
timed by CUDA's events; before it the L2 cache is overwritten, and the GPU kept waiting until the program has queued the
work: what is measured is the GPU's time. The frozen products (y = x·Wᵀ and dx = dy·W) are the measure; a block whose
frozen median drifts by more than 2% between its halves is run again.
"""

import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as functional

from worker import LOST, context_is_whole

SCALE = 2.0
DRIFT = 0.02
# LLaMA-3-8B: in, and the out of each projection that reads it.
LAYER = [(4096, [4096, 1024, 1024]), (4096, [4096]), (4096, [14336, 14336]), (14336, [4096])]
SHAPES = [(4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096)]


class HandWritten(torch.autograd.Function):
    """The adapter as addmm calls, with the gradients in place: what one writes without a kernel."""

    @staticmethod
    def forward(ctx, x, w, a, b, scale):
        shrunk = x @ a.t()
        ctx.save_for_backward(x, w, a, b, shrunk)
        ctx.scale = scale
        return (x @ w.t()).addmm_(shrunk, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx, dy):
        x, w, a, b, shrunk = ctx.saved_tensors
        dshrunk = (dy @ b).mul_(ctx.scale)
        dx = (dy @ w).addmm_(dshrunk, a) if ctx.needs_input_grad[0] else None
        return dx, None, dshrunk.t() @ x, (dy.t() @ shrunk).mul_(ctx.scale), None


def peft_modules(weights, a, b, dropout, dtype):
    """PEFT's layers on these very tensors, adapters in `dtype`."""
    from peft import LoraConfig, inject_adapter_in_model

    linears = []
    for w in weights:
        linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta")
        linear.weight = torch.nn.Parameter(w, requires_grad=False)
        linears.append(linear)
    rank = a[0].shape[0]
    config = LoraConfig(r=rank, lora_alpha=SCALE * math.sqrt(rank), use_rslora=True, lora_dropout=dropout,
                        target_modules=[str(i) for i in range(len(weights))])
    modules = inject_adapter_in_model(config, torch.nn.Sequential(*linears))
    for module, own_a, own_b in zip(modules, a, b):
        module.lora_A["default"].weight = torch.nn.Parameter(own_a.detach().to(dtype).clone())
        module.lora_B["default"].weight = torch.nn.Parameter(own_b.detach().to(dtype).clone())
    return modules.train()


class Group:
    """Projections that read one x."""

    def __init__(self, tokens, k, outs, rank, dropout, device):
        def random(*sizes, scale=1.0):
            return (torch.randn(*sizes, device=device) * scale).bfloat16()

        self.dropout = dropout
        self.x = random(tokens, k).requires_grad_()
        self.weights = [random(n, k, scale=k**-0.5) for n in outs]
        self.a = [random(rank, k, scale=k**-0.5).float().requires_grad_() for _ in outs]
        self.b = [random(n, rank, scale=rank**-0.5).float().requires_grad_() for n in outs]
        self.dy = [random(tokens, n) for n in outs]
        self.squared = [w.float().square().sum(1) for w in self.weights]
        self.magnitudes = [each.sqrt().requires_grad_() for each in self.squared]
        self.short = [[each.detach().bfloat16().requires_grad_() for each in side] for side in (self.a, self.b)]

    def frozen(self):
        x = self.x.detach()
        outputs = [functional.linear(x, w) for w in self.weights]
        dx = self.dy[0] @ self.weights[0]
        for dy, w in zip(self.dy[1:], self.weights[1:]):
            dx.addmm_(dy, w)
        return outputs, dx

    def gradients(self, outputs, trained):
        return torch.autograd.grad(outputs, [self.x, *trained], self.dy)

    def rora(self, dora=False):
        outputs = torch.ops.rora_gpu.together(
            self.x, self.weights, self.a, self.b, SCALE, self.dropout, list(range(len(self.a))),
            self.magnitudes if dora else [], self.squared if dora else [])
        return self.gradients(outputs, [*self.a, *self.b, *(self.magnitudes if dora else [])])

    def hand_written(self):
        a, b = self.short
        outputs = [HandWritten.apply(self.x, w, own_a, own_b, SCALE) for w, own_a, own_b in zip(self.weights, a, b)]
        return self.gradients(outputs, [*a, *b])

    def peft(self, dtype, compiled=False):
        modules = peft_modules(self.weights, self.a, self.b, self.dropout, dtype)
        trained = [p for p in modules.parameters() if p.requires_grad]

        def forward(x):
            return [module(x) for module in modules]

        if compiled:
            forward = torch.compile(forward, dynamic=False)
        return lambda: self.gradients(forward(self.x), trained)


def rows_of(groups, dropout, compiled, dora):
    """The rows of a block by name; those of PEFT are made when first asked for."""
    def every(run):
        return lambda: [run(group) for group in groups]

    def peft(dtype, compiled=False):
        runs = [group.peft(dtype, compiled) for group in groups]
        return lambda: [run() for run in runs]

    rows = {"frozen": lambda: every(Group.frozen), "rora": lambda: every(Group.rora)}
    if dora:
        rows["rora, DoRA"] = lambda: every(lambda group: group.rora(dora=True))
    if dropout == 0:
        rows["hand-written addmm"] = lambda: every(Group.hand_written)
    rows["PEFT"] = lambda: peft(torch.float32)
    rows["PEFT, bf16 adapters"] = lambda: peft(torch.bfloat16)
    if compiled:
        rows["PEFT, bf16 adapters, compiled"] = lambda: peft(torch.bfloat16, compiled=True)
    return rows


class Clock:
    """Times calls: on a GPU by events, behind a flushed cache and with the work queued ahead of the GPU."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            properties = torch.cuda.get_device_properties(0)
            self.flushed = torch.empty(4 * properties.L2_cache_size, dtype=torch.uint8, device=device)
            self.cycles_of_ms = 2_000_000

    def host_ms(self, run):
        """How long the program takes to queue a call."""
        if not self.cuda:
            return 0.0
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begin)

    def start(self, run, wait_ms):
        """A sample: a function that says, once the GPU is through, how many ms it took."""
        if not self.cuda:
            begin = time.perf_counter()
            run()
            taken = 1e3 * (time.perf_counter() - begin)
            return lambda: taken
        self.flushed.zero_()
        torch.cuda._sleep(int(wait_ms * self.cycles_of_ms))
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        return lambda: begin.elapsed_time(end)

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()


def peak_bytes(run, device):
    """The most that a call takes beside what is there."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def sample(runs, clock, warmups, samples):
    """ms of each row, taking turns."""
    waits = {}
    for _ in range(warmups):
        for name, run in runs.items():
            waits[name] = min(10.0, 0.3 + 1.5 * clock.host_ms(run))
    taken = {name: [] for name in runs}
    for _ in range(samples):
        started = [(name, clock.start(run, waits[name])) for name, run in runs.items()]
        clock.synchronize()
        for name, finish in started:
            taken[name].append(finish())
    return taken


def drift(times):
    half = len(times) // 2
    first, second = statistics.median(times[:half]), statistics.median(times[half:])
    return abs(first - second) / min(first, second)


def summary(times):
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return {"median_ms": statistics.median(times), "p10_ms": cuts[0], "p90_ms": cuts[-1]}


def block(context, tokens, shapes, rank, dropout, compiled=False, dora=False):
    """One block of the benchmark, with the figures of each row."""
    torch.manual_seed(0)
    device, clock = context.device, Clock(context.device)
    warmups, samples = (1, 4) if context.cpu else (20, 100) if context.full else (10, 40)
    groups = [Group(tokens, k, outs, rank, dropout, device) for k, outs in shapes]
    runs, failed, memory = {}, {}, {}
    wanted = context.settings.get("rows")
    for name, make in rows_of(groups, dropout, compiled, dora).items():
        if wanted and name not in wanted:
            continue
        try:
            run = make()
            run()
            memory[name] = peak_bytes(run, device)
            runs[name] = run
        except Exception as error:  # another row may still be measured
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
    for attempt in range(1 if context.cpu else 3):
        begin = time.monotonic()
        times = sample(runs, clock, warmups, samples)
        drifted = drift(times["frozen"])
        if drifted <= DRIFT or context.left() < time.monotonic() - begin:
            break
    products = sum(k * n for k, outs in shapes for n in outs)
    low_rank = sum(k + n for k, outs in shapes for n in outs)
    least = 2 * sum((3 * tokens * k + 2 * tokens * sum(outs) + 2 * k * sum(outs)) for k, outs in shapes)
    rows = {}
    for name, each in times.items():
        figures = summary(each)
        seconds = figures["median_ms"] / 1e3
        flops = 4 * tokens * products + (0 if name == "frozen" else 6 * tokens * rank * low_rank)
        figures["over_frozen"] = figures["median_ms"] / statistics.median(times["frozen"]) - 1
        figures["tflops"], figures["gb_per_s"] = flops / seconds / 1e12, least / seconds / 1e9
        figures["peak_bytes"] = memory[name]
        rows[name] = figures
    return {"tokens": tokens, "shapes": shapes, "rank": rank, "dropout": dropout, "samples": samples,
            "attempts": attempt + 1, "frozen_drift": drifted, "rows": rows, "failed": failed}


def layer_blocks(context):
    """(tokens, shapes, rank, dropout, compiled, DoRA) of the layer's blocks, the most wanted first."""
    if context.cpu:
        return [(48, [(32, [32, 16]), (48, [32])], 4, 0.0, False, True), (48, [(32, [32, 16])], 4, 0.05, False, False)]
    blocks = [(8192, LAYER, rank, 0.0, rank == 16, rank in (16, 64)) for rank in (16, 64, 8, 128, 256, 32)]
    blocks.append((8192, LAYER, 16, 0.05, False, False))
    if context.full:
        blocks += [(m, LAYER, r, p, False, p == 0) for m in (4096, 8192, 16384) for r in (8, 16, 32, 64, 128, 256)
                   for p in (0.0, 0.05) if (m, LAYER, r, p) not in [each[:4] for each in blocks]]
    return blocks


def linear_blocks(context):
    if context.cpu:
        return [(48, [(32, [64])], 4, p, False, False) for p in (0.0, 0.05)]
    keys = [(8192, shape, 16, 0.0) for shape in SHAPES] + [(8192, shape, 16, 0.05) for shape in SHAPES]
    keys += [(8192, shape, 64, 0.0) for shape in SHAPES]
    keys += [(m, SHAPES[0], 16, 0.0) for m in (4096, 16384)] + [(8192, SHAPES[0], r, 0.0) for r in (8, 128, 256)]
    keys += [(m, shape, r, p) for m in (4096, 8192, 16384) for shape in SHAPES for r in (8, 16, 32, 64, 128, 256)
             for p in (0.0, 0.05) if context.full]
    return [(m, [(k, [n])], r, p, (m, (k, n), r, p) == keys[0], False) for m, (k, n), r, p in dict.fromkeys(keys)]


def measure(context, blocks):
    """The blocks that are not known yet, in turn while there is time; those without are named."""
    known = [json.dumps(key) for key in context.settings.get("known", [])]
    longest = 0.0
    for number, (*key, compiled, dora) in enumerate(blocks):
        if number < context.start or json.dumps(key) in known:
            continue
        if context.left() < longest:
            if context.through:
                context.write(stopped=number, case=f"block {key}")
            context.through = False
            context.write(left_out=key)
            continue
        begin, first = time.monotonic(), longest == 0.0
        context.write(begin=number, case=f"block {key}")
        try:
            context.write(block=block(context, *key, compiled=compiled, dora=dora))
        except Exception as error:
            context.write(case=f"block {key}", wrong=[f"{type(error).__name__}: {str(error)[:500]}"])
            if context.device == "cuda" and not context_is_whole():
                sys.exit(LOST)
        if context.device == "cuda":
            torch.cuda.empty_cache()
        taken = time.monotonic() - begin
        longest = max(longest, 0.5 * taken if first else taken)  # the first has libraries to load


def layer(context):
    measure(context, layer_blocks(context))


def each(context):
    measure(context, linear_blocks(context))


def compile_ahead(context):
    """Runs the compiled rows once, while nothing is timed: the benchmark then finds them in the compiler's cache."""
    for m, shapes, rank, dropout, compiled, _ in layer_blocks(context) + linear_blocks(context):
        if compiled:
            torch.manual_seed(0)
            for k, outs in shapes:
                Group(m, k, outs, rank, dropout, context.device).peft(torch.bfloat16, compiled=True)()
                context.write(compiled=[m, k, outs, rank])
