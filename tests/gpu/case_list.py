"""Which cases run.py's checks call, the most wanted first."""

import itertools

from cases import Maker

GROUP = 10_000  # of case numbers: more than a group has


def cases_of(tokens, **sizes):
    maker = Maker(tokens, **sizes)
    maker.norms_and_elementwise()
    maker.norms_of_sums()
    maker.rotary()
    if tokens > 0:
        maker.attention()
    maker.cross_entropy()
    maker.products()
    maker.low_rank()
    return maker.cases


def in_float16_too(cases):
    """For float16 there is no kernel: LibTorch's operations compute it on every device."""
    for case in cases:
        if "bfloat16" in case.dtypes:
            case.dtypes = (*case.dtypes, "float16")
    return cases


def in_bfloat16(cases):
    """In float32 they would keep the CPU for minutes."""
    for case in cases:
        case.dtypes = tuple(each for each in case.dtypes if each == "bfloat16") or case.dtypes
    return cases


def of_a_models_sizes():
    large = Maker(4097, k=4096, n=1024, rank=64, note=", a model's sizes")
    large.products()
    large.low_rank()
    large.norms_of_sums()
    large.norms_and_elementwise()
    return in_bfloat16(large.cases)


def of_rank(rank):
    maker = Maker(1025, k=2048, n=1536, rank=rank, note=", large")
    maker.low_rank()
    maker.products()
    return in_bfloat16(maker.cases)


def of_heads(size):
    """Attention of sizes that cuDNN's kernels take; some layouts have rows at addresses that those cannot read."""
    maker = Maker(384, note=f", heads of {size}")
    maker.attention(size)
    return in_bfloat16(maker.cases)


def groups(kind):
    """Functions that make cases. "cpu": small; "gpu": all sizes; "small": for a sanitizer."""
    odd = dict(k=77, n=131, rank=5, note=", odd")
    if kind == "small":
        return [lambda: cases_of(37), lambda: cases_of(130, **odd)]
    if kind == "cpu":
        return [lambda: cases_of(0), lambda: cases_of(1), lambda: in_float16_too(cases_of(67, **odd))]
    return [
        of_a_models_sizes, *(lambda rank=rank: of_rank(rank) for rank in (16, 64, 8, 128, 256)),
        *(lambda size=size: of_heads(size) for size in (128, 64)),
        lambda: cases_of(4097, k=512, n=384, rank=16), lambda: cases_of(127, **odd),
        lambda: in_float16_too(cases_of(127)),
        lambda: cases_of(127, k=256, n=256, rank=130, note=", high rank"), lambda: cases_of(1), lambda: cases_of(0)]


def all_cases(kind):
    return list(itertools.chain.from_iterable(make() for make in groups(kind)))


def numbered(kind, start=0, each=lambda case: [(case, dtype) for dtype in case.dtypes]):
    """(number, what to check) from number `start` on: `each` says what a case comes to. The numbers are the same
    whatever `start` is, and groups that lie before it are not made."""
    for index, make in enumerate(groups(kind)):
        if start >= (index + 1) * GROUP:
            continue
        items = itertools.chain.from_iterable(each(case) for case in make())
        for number, item in enumerate(items, index * GROUP):
            if number >= start:
                yield number, item
