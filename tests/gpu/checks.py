"""The workers behind run.py's sections parity, determinism, dropout, masks and sanitize: a JSON line a finding."""

import math
import types

import torch

import cases as all_of
import formulas
from case_list import all_cases, numbered
from worker import Context

REPEATS = 10
TOLERANCE = 3e-5  # of float32, by norm; by the largest element ten times that
TOLERANCE_OF_LIBRARY = 1e-3  # on a GPU, LibTorch's own attention may multiply in TF32
RULE = 1.5  # a bfloat16 output's error, as a multiple of eager bfloat16's
RULE_OF_FEW = 2.5  # the same for a few tokens, whose errors are too few for a narrower rule to tell
RULE_OF_LARGEST = 3.0  # the largest element's error is a noisy measure: it finds single wrong elements
LARGE = 2**20  # elements
LAYOUTS = {"dense": None, "strided": (8, 8), "odd": (1, 2)}  # elements before and after each row


def prepared(case, dtype, device, layout, keep_double=False):
    """The case's tensors on `device`, floating ones in `dtype` (rounded through it where `keep_double`), and the frames
    that strided ones lie in, whose rims are NaN: who reads them gives NaN, who writes them is found out."""
    tensors, frames = {}, []
    for name, value in case.tensors.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            kind = torch.float32 if name in case.wide else dtype
            value = value.to(kind).to(torch.float64 if keep_double else kind)
            rim = LAYOUTS[layout]
            if rim and value.dim() >= 2:
                before, after = rim
                frame = torch.full((*value.shape[:-1], before + value.shape[-1] + after), math.nan, dtype=value.dtype)
                frame[..., before:before + value.shape[-1]] = value
                frame = frame.to(device)
                frames.append((name, frame, before, after))
                value = frame[..., before:frame.shape[-1] - after]
            else:
                value = value.to(device, copy=True)
        elif isinstance(value, torch.Tensor):
            value = value.to(device)
        tensors[name] = value
    return types.SimpleNamespace(**{"magnitude": None, "bias": None, **tensors}), frames


def outputs_of(case, tensors, compute):
    """By name: what `compute` gives and, where the case asks for them, the gradients of it."""
    if not case.gradients:
        result = compute(tensors)
        result = result if isinstance(result, (tuple, list)) else (result,)
        return dict(zip(case.outputs, result))
    leaves = []
    for name in case.gradients:
        leaf = getattr(tensors, name).detach().requires_grad_()
        setattr(tensors, name, leaf)
        leaves.append(leaf)
    y = compute(tensors)
    gradients = torch.autograd.grad(y, leaves, tensors.dy.to(y.dtype))
    return {case.outputs[0]: y.detach(), **{f"d{name}": g for name, g in zip(case.gradients, gradients)}}


def run_operator(case, tensors):
    operator = getattr(torch.ops.rora, case.op)
    return outputs_of(case, tensors, lambda t: case.call(operator, t))


def error(found, wanted):
    """‖found − wanted‖/‖wanted‖ and the same of the largest elements; infinite for other shapes and what is not finite.
    """
    if found is None or wanted is None:
        absent = found is None or (wanted is None and found.numel() == 0)
        return (0.0, 0.0) if absent and wanted is None else (math.inf, math.inf)
    if found.shape != wanted.shape:
        return math.inf, math.inf
    found, wanted = found.detach().to(wanted.device).double(), wanted.detach().double()
    if found.numel() == 0:
        return 0.0, 0.0
    difference = found - wanted
    if not torch.isfinite(difference).all():
        return math.inf, math.inf
    size, most = wanted.norm().item(), wanted.abs().max().item()
    return difference.norm().item() / (size or 1.0), difference.abs().max().item() / (most or 1.0)


def written_rims(frames):
    def untouched(frame, before, after):
        return frame[..., :before].isnan().all() and frame[..., frame.shape[-1] - after:].isnan().all()

    return [name for name, frame, before, after in frames if not untouched(frame, before, after)]


class Comparison:
    """A case in one dtype: what it has to give, computed once, against what it gives in each layout."""

    def __init__(self, case, dtype_name, device):
        self.case, self.device, self.dtype = case, device, getattr(torch, dtype_name)
        # Plain operations in float64 are trusted anywhere; a model's sizes would take a CPU too long.
        large = max(each.numel() for each in case.tensors.values() if each is not None) > LARGE
        self.reference = outputs_of(
            case, self.prepared(device if large else "cpu", "dense", keep_double=True), case.formula)
        if self.dtype == torch.float32:
            self.cpu = run_operator(case, self.prepared("cpu", "dense"))
        else:
            eager = outputs_of(case, self.prepared(device, "dense"), case.formula)
            self.eager = {name: error(eager[name], self.reference[name]) for name in eager}

    def prepared(self, *arguments, **more):
        return prepared(self.case, self.dtype, *arguments, **more)[0]

    def limits(self, name, found):
        """The most that an output's error may be, by norm and by its largest element."""
        if self.dtype == torch.float32:
            tolerance = TOLERANCE_OF_LIBRARY if self.case.library and self.device == "cuda" else TOLERANCE
            return tolerance, 10 * tolerance
        # What rounding alone may do: an output of a few numbers can be right to more digits by chance.
        few = found is not None and found.numel() < 64
        rounding = {torch.bfloat16: 2e-3, torch.float16: 5e-4}
        floor = 8e-3 if few else 1e-5 if found is None else rounding.get(found.dtype, 1e-5)
        norm, largest = self.eager[name]
        rule = RULE if self.case.tokens >= 16 else RULE_OF_FEW
        return max(rule * norm, floor), max(RULE_OF_LARGEST * largest, 4 * floor)

    def of_layout(self, layout):
        """(what is wrong, the figures by output)."""
        tensors, frames = prepared(self.case, self.dtype, self.device, layout)
        found = run_operator(self.case, tensors)
        wrong = [f"the rim of {name} was written" for name in written_rims(frames)]
        figures = {}
        for name, y in found.items():
            errors = {"against float64": error(y, self.reference[name])}
            if self.dtype == torch.float32:
                errors["against the CPU"] = error(y, self.cpu[name])
            limits = self.limits(name, y)
            wrong += [f"{name} {against}: {each[0]:.2e}, its largest element {each[1]:.2e}; allowed are "
                      f"{limits[0]:.2e} and {limits[1]:.2e}" for against, each in errors.items()
                      if not (each[0] <= limits[0] and each[1] <= limits[1])]
            figures[name] = errors if self.dtype == torch.float32 else {**errors, "eager's": self.eager[name]}
        return wrong, figures


def parity(context: Context):
    """Every operator against the CPU in float32, against eager bfloat16's error in bfloat16 (and, of one size, the same
    in float16), in each layout. With `operators`, theirs in bfloat16 alone."""
    only = context.settings.get("operators")  # those alone
    if context.start == 0 and not only:
        for op in sorted(set(all_of.schemas()) - {case.op for case in all_cases("cpu")}):
            context.write(case=op, wrong=["no case calls this operator"])
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        context.write(registered_for_cuda=[op for op in sorted(all_of.schemas()) if has_kernel(f"rora::{op}", "CUDA")])
    # Memory that nothing has written to reads as NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True

    def check(case, dtype):
        comparison = Comparison(case, dtype, context.device)
        for layout in LAYOUTS:
            wrong, figures = comparison.of_layout(layout)
            context.write(case=f"{case.name}, {dtype}, {layout}", wrong=wrong, figures=figures)

    def wanted(case):
        return [(case, dtype) for dtype in case.dtypes if not only or case.op in only and dtype == "bfloat16"]

    context.each(numbered("cpu" if context.cpu else "gpu", context.start, wanted), check)


def determinism(context: Context):
    """The same bits over ten runs, with other memory in between."""

    def check(case, dtype):
        # What LibTorch computes itself is deterministic where that is asked for.
        torch.use_deterministic_algorithms(case.library)
        first, wrong, held = None, [], []
        tensors, _ = prepared(case, getattr(torch, dtype), context.device, "dense")
        for run in range(3 if context.cpu else REPEATS):
            own = {name: each.clone() if each is not None else None for name, each in vars(tensors).items()}
            found = run_operator(case, types.SimpleNamespace(**own))
            found = {name: y for name, y in found.items() if y is not None}
            first = first or found
            for name, y in found.items():
                if not torch.equal(bits(y), bits(first[name])):
                    wrong.append(f"{name} differs in run {run + 1}")
            held.append(torch.full((4099 * (run + 1),), math.nan, device=context.device))
        context.write(case=f"{case.name}, {dtype}", wrong=wrong)

    def wanted(case):  # float16 is what LibTorch's kernels compute
        return [(case, dtype) for dtype in case.dtypes if dtype != "float16"]

    context.each(numbered("cpu" if context.cpu else "gpu", context.start, wanted), check)


def bits(y):
    return y.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[y.element_size()])


def dropout(context: Context):
    """The mask is the CPU's and the one that include/rora/core/dropout.h describes, bit for bit."""
    device, op = context.device, torch.ops.rora
    sizes = (0, 1, 3, 4097, 3 * 4096 + 5) if context.cpu else (0, 1, 3, 4097, 3 * 4096 + 5, 40_000_003)

    def check(p, seed, size):
        wrong = []
        ones = torch.ones(size)
        here, there = op.dropout(ones, p, seed), op.dropout(ones.to(device), p, seed).cpu()
        if not torch.equal(bits(here), bits(there)):
            wrong.append(f"{(here != there).sum().item()} elements differ from the CPU's")
        if size < 10**6 and not torch.equal(here, formulas.dropped(ones, p, seed)):
            wrong.append("the CPU's differ from Philox's words")
        short = op.dropout(ones.bfloat16().to(device), p, seed).cpu()
        if not torch.equal(short != 0, here != 0):
            wrong.append("bfloat16 has another mask than float32")
        context.write(case=f"dropout of {size}, p={p}, seed={seed}", wrong=wrong)

    items = ((p, s, n) for p in (0.05, 0.5, 0.999, 1.0) for s in (0, 7, 2**40 + 7, -1) for n in sizes)
    context.each(enumerate(items), check)


def masks(context: Context):
    """The operators that apply dropout inside keep the same elements as `rora::dropout` does."""
    shapes = ((1, 64), (64, 64), (37, 77), (130, 264))
    items = ((*s, d) for s in shapes for d in (torch.float32, torch.bfloat16))
    context.each(enumerate(items), lambda *item: consumers(context, *item))


def consumers(context, rows, columns, dtype):
    """The operators that apply the mask inside: with unit matrices they give the dropped input itself."""
    device, op, p, seed = context.device, torch.ops.rora, 0.3, 99
    x = (1 + torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))).to(dtype)
    mask = op.dropout(torch.ones(rows, columns), p, seed) != 0
    found = {}
    if all_of.has_argument("low_rank_shrink", "p"):
        found["low_rank_shrink"] = op.low_rank_shrink(x.to(device), torch.eye(columns, device=device), 1.0, p, seed)
    if all_of.has_argument("low_rank_gradient_a", "p"):
        unit = torch.eye(rows, dtype=dtype, device=device)
        found["low_rank_gradient_a"] = op.low_rank_gradient_a(unit, x.to(device), torch.float32, p, seed)
    unit = torch.eye(rows, dtype=dtype, device=device)
    found["low_rank_gradient_x_"] = op.low_rank_gradient_x_(
        torch.zeros(rows, columns, dtype=dtype, device=device), unit, x.to(device), p, seed)
    for name, y in found.items():
        wrong = [] if torch.equal(y.cpu() != 0, mask) else ["another mask than dropout's"]
        context.write(case=f"{name}'s mask, {rows} by {columns}, {dtype}", wrong=wrong)


def sanitize(context: Context):
    """Only calls the operators, but those that are to be left out: a sanitizer watches."""
    left_out = context.settings.get("left_out", [])

    def check(case, dtype, layout):
        run_operator(case, prepared(case, getattr(torch, dtype), context.device, layout)[0])
        context.write(case=f"{case.name}, {dtype}, {layout}", wrong=[])

    def wanted(case):
        if case.library or case.op in left_out:
            return []
        return [(case, dtype, layout) for dtype in case.dtypes for layout in ("dense", "odd")]

    context.each(numbered("small", context.start, wanted), check)
