"""What run.py's checks call: every operator of rora with its inputs, and what it should give by plain operations.

A case knows its tensors (in float32, on the CPU), how the operator is called with them, and the formula in eager
PyTorch. The formula is the reference in float64 and, in bfloat16, the measure of how exact the operator has to be.
"""

import dataclasses
import types
import zlib

import torch
import torch.nn.functional as functional

from formulas import (
    EPS, SCALE, attention, attention_gradients, dropped, low_rank_linear, rms_norm, rms_norm_gradients, scores, turned,
    wide_of)


@dataclasses.dataclass
class Case:
    op: str  # without "rora::"
    name: str
    tensors: dict  # by name; float32 or int64, on the CPU
    call: object  # (operator, tensors) -> output or outputs
    formula: object  # (tensors) -> the same in plain operations
    gradients: tuple = ()  # names of the inputs whose gradients are outputs too; `dy` is then the output's
    wide: tuple = ()  # names of tensors that stay float32 in a bfloat16 case
    outputs: tuple = ("y",)
    dtypes: tuple = ("float32", "bfloat16")
    tokens: int = 0
    library: bool = False  # on a GPU, LibTorch's own kernels compute it: deterministic where asked to be


class Maker:
    """Makes the cases of one size. `tokens` is M; `wide_k`, `wide_n` and `rank` are a projection's sizes."""

    def __init__(self, tokens, k=264, n=200, rank=12, note=""):
        self.tokens, self.k, self.n, self.rank = tokens, k, n, rank
        self.note = f"M={tokens}{note}"
        self.cases = []

    def random(self, name, *sizes, scale=1.0):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.note} {name} {sizes}".encode()))
        return torch.randn(*sizes, generator=generator) * scale

    def integers(self, limit, *sizes):
        generator = torch.Generator().manual_seed(limit)
        return torch.randint(limit, sizes, generator=generator)

    def add(self, op, call, formula, what="", tensors=None, **more):
        name = ", ".join(filter(None, [op, what, self.note]))
        self.cases.append(Case(op, name, tensors, call, formula, tokens=self.tokens, **more))

    def norms_and_elementwise(self):
        m, k = self.tokens, self.k
        x, weight, dy = self.random("x", m, k), 1 + self.random("weight", k, scale=0.2), self.random("dy", m, k)
        norm = dict(x=x, w=weight)
        self.add("rms_norm_forward", lambda op, t: op(t.x, t.w, EPS), lambda t: (rms_norm(t.x, t.w)[0],
                 rms_norm(t.x, t.w)[1].squeeze(-1)), tensors=norm, outputs=("y", "rstd"))
        self.add("rms_norm", lambda op, t: op(t.x, t.w, EPS), lambda t: rms_norm(t.x, t.w)[0],
                 tensors=dict(**norm, dy=dy), gradients=("x", "w"))
        self.add("rms_norm_backward",
                 lambda op, t: op(t.dy, t.x, t.w, rms_norm(t.x, t.w)[1].reshape(t.x.shape[:-1]), [True, True]),
                 lambda t: rms_norm_gradients(t.dy, t.x, t.w), tensors=dict(**norm, dy=dy), outputs=("dx", "dweight"))
        gate, up = self.random("gate", m, k), self.random("up", m, k)

        def swiglu(t):
            return functional.silu(t.gate) * t.up

        def swiglu_gradients(t):
            sigmoid = torch.sigmoid(t.gate)
            return (t.dy * t.up) * sigmoid * (1 + t.gate * (1 - sigmoid)), t.dy * (t.gate * sigmoid)

        both = dict(gate=gate, up=up)
        self.add("swiglu_forward", lambda op, t: op(t.gate, t.up), swiglu, tensors=both)
        self.add("swiglu", lambda op, t: op(t.gate, t.up), swiglu, tensors=dict(**both, dy=dy),
                 gradients=("gate", "up"))
        self.add("swiglu_backward", lambda op, t: op(t.dy, t.gate, t.up), swiglu_gradients,
                 tensors=dict(**both, dy=dy), outputs=("dgate", "dup"))
        if "swiglu_backward_into" in schemas():
            def beside_each_other(op, t):
                dgate, dup, rest = places(t.gate, 2)
                op(t.dy, t.gate, t.up, dgate, dup)
                untouched(rest)
                return dgate, dup

            def norm_in_place(op, t):
                dx, rest = places(t.x, 1)
                op(t.dy, t.x, t.w, rms_norm(t.x, t.w)[1].reshape(t.x.shape[:-1]), t.dsum, dx)
                untouched(rest)
                return dx

            self.add("swiglu_backward_into", beside_each_other, swiglu_gradients, tensors=dict(**both, dy=dy),
                     outputs=("dgate", "dup"))
            self.add("rms_norm_backward_into", norm_in_place,
                     lambda t: rms_norm_gradients(t.dy, t.x, t.w)[0] + t.dsum,
                     tensors=dict(**norm, dy=dy, dsum=self.random("dsum", m, k)), outputs=("dx",))
        for p, seed in ((0.05, 3), (0.5, -1)):
            self.add("dropout", lambda op, t, p=p, seed=seed: op(t.x, p, seed),
                     lambda t, p=p, seed=seed: dropped(t.x, p, seed), f"p={p}", tensors=dict(x=x))

    def norms_of_sums(self):
        m, k, r = self.tokens, self.k, min(self.rank, 64)
        tensors = dict(x=self.random("x", m, k), added=self.random("added", m, k),
                       w=1 + self.random("weight", k, scale=0.2), a=self.random("a", r, k, scale=k**-0.5))

        def norm_of_sum(t):
            h = t.x + t.added
            y, rstd = rms_norm(h, t.w)
            return h, y, rstd.squeeze(-1)

        def shrunk_too(t, y):
            return SCALE * (y @ t.a.to(y.dtype).t())

        def of_x(t):
            y, rstd = rms_norm(t.x, t.w)
            return None, y, rstd.squeeze(-1), shrunk_too(t, y)

        def of_sum(t):
            every = norm_of_sum(t)
            return *every, shrunk_too(t, every[1])

        both = {name: tensors[name] for name in ("x", "added", "w")}
        self.add("add_rms_norm_forward", lambda op, t: op(t.x, t.added, t.w, EPS), norm_of_sum, tensors=both,
                 outputs=("sum", "y", "rstd"))
        self.add("add_rms_norm", lambda op, t: op(t.x, t.added, t.w, EPS)[1], lambda t: norm_of_sum(t)[1],
                 tensors=dict(**both, dy=self.random("dy", m, k)), gradients=("x", "added", "w"))
        for what, formula in (("of x", of_x), ("of a sum", of_sum)):
            self.add("rms_norm_shrink_forward",
                     lambda op, t, formula=formula: op(
                         t.x, t.added if formula is of_sum else None, t.w, EPS, t.a, SCALE),
                     formula, f"r={r}, {what}", tensors=tensors, wide=("a",), outputs=("sum", "y", "rstd", "shrunk"))

    def rotary(self):
        m, heads, size = self.tokens, 3, 32
        x, dy = self.random("rope", 1, m, heads, size), self.random("drope", 1, m, heads, size)
        angles = self.random("angles", 1, m, size // 2).repeat(1, 1, 2)
        tensors = dict(x=x, cos=angles.cos(), sin=angles.sin())
        for inverse in (False, True):
            self.add("rotary_embedding_forward",
                     lambda op, t, inverse=inverse: op(t.x.transpose(1, 2), t.cos, t.sin, inverse),
                     lambda t, inverse=inverse: turned(t.x.transpose(1, 2), t.cos, t.sin, inverse),
                     "inverse" if inverse else "", tensors=tensors)
        if "rotary_embedding_forward_into" in schemas():
            def in_place(op, t):
                y, rest = places(t.x.flatten(2), 1)
                y = y.unflatten(2, (heads, size)).transpose(1, 2)
                op(t.x.transpose(1, 2), t.cos, t.sin, True, y)
                untouched(rest)
                return y

            self.add("rotary_embedding_forward_into", in_place,
                     lambda t: turned(t.x.transpose(1, 2), t.cos, t.sin, True), tensors=tensors)
        self.add("rotary_embedding", lambda op, t: op(t.x.transpose(1, 2), t.cos, t.sin).transpose(1, 2),
                 lambda t: turned(t.x.transpose(1, 2), t.cos, t.sin).transpose(1, 2),
                 tensors=dict(**tensors, dy=dy), gradients=("x",))

    def attention(self, size=32):
        tokens = min(max(self.tokens, 17), 513)  # scores are tokens² each; the gradients of one token are 0
        batch, heads, kv_heads = 2, 4, 2
        packed = torch.stack([torch.arange(tokens) * 3 // tokens + 1, torch.arange(tokens) * 2 // tokens + 1])
        if tokens > 4:
            packed[1, -3:] = 0
        shapes = {name: (batch, heads if name == "q" else kv_heads, tokens, size) for name in "qkv"}
        heads_of = {name: self.random(name, *sizes) for name, sizes in shapes.items()}
        dy = self.random("dout", *shapes["q"])
        for sequence in (None, packed):
            what = f"{tokens} tokens" + ("" if sequence is None else ", packed")
            tensors = dict(**heads_of, sequence=sequence)
            self.add("attention", lambda op, t: op(t.q, t.k, t.v, t.sequence),
                     lambda t: attention(t.q, t.k, t.v, t.sequence), what, tensors=dict(**tensors, dy=dy),
                     gradients=("q", "k", "v"), library=True)
            self.add("attention_forward", lambda op, t: op(t.q, t.k, t.v, t.sequence),
                     lambda t: (attention(t.q, t.k, t.v, t.sequence), scores(t.q, t.k, t.sequence).logsumexp(-1)), what,
                     tensors=tensors, outputs=("out", "normaliser"), library=True)

            def backward(op, t):
                out, normaliser = torch.ops.rora.attention_forward(t.q, t.k, t.v, t.sequence)
                return op(t.dout, t.q, t.k, t.v, out, normaliser, t.sequence)

            self.add("attention_backward", backward, attention_gradients, what, tensors=dict(**tensors, dout=dy),
                     outputs=("dq", "dk", "dv"), library=True)

        self.varlen_attention(heads_of, dy, tokens)

    def varlen_attention(self, heads_of, dy, tokens):
        """Runs of one row: [tokens, heads, size], without a mask."""
        flat = {name: each[0].transpose(0, 1) for name, each in heads_of.items()}
        bounds = torch.tensor([0, tokens // 3, tokens // 3 + 1, tokens], dtype=torch.int32)

        def by_runs(t):
            runs = []
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
                q, k, v = (each[begin:end].transpose(0, 1).unsqueeze(0) for each in (t.q, t.k, t.v))
                runs.append(attention(q, k, v, None)[0].transpose(0, 1))
            return torch.cat(runs)

        if "varlen_attention" in schemas():
            self.add("varlen_attention", lambda op, t: op(t.q, t.k, t.v, t.bounds, int(bounds.diff().max())), by_runs,
                     f"{tokens} tokens", tensors=dict(**flat, bounds=bounds, dy=dy[0].transpose(0, 1)),
                     gradients=("q", "k", "v"), library=True)

    def cross_entropy(self, vocab=333):
        m, k = self.tokens, min(self.k, 264)
        hidden, weight = self.random("hidden", m, k), self.random("head", vocab, k, scale=k**-0.5)
        targets = self.integers(vocab, m)
        targets[1::4] = -100  # without loss and gradient
        logits = self.random("logits", m, vocab)

        def rows(op, t):
            return op(t.logits, t.targets, True), t.logits

        def rows_formula(t):
            wide = t.logits.to(wide_of(t.logits))
            losses = functional.cross_entropy(wide, t.targets, reduction="none")
            gradient = wide.softmax(-1) - functional.one_hot(t.targets.clamp_min(0), wide.shape[1])
            gradient[t.targets == -100] = 0
            return losses, gradient.to(t.logits.dtype)

        self.add("cross_entropy_rows_", rows, rows_formula, tensors=dict(logits=logits, targets=targets),
                 outputs=("losses", "logits"))

        def loss(t):
            wide = (t.hidden @ t.weight.t()).to(wide_of(t.hidden))
            return functional.cross_entropy(wide, t.targets, reduction="sum")

        def loss_and_gradients(t):
            leaves = types.SimpleNamespace(hidden=t.hidden.detach().requires_grad_(),
                                           weight=t.weight.detach().requires_grad_(), targets=t.targets)
            with torch.enable_grad():
                total = loss(leaves)
                return (total.detach(), *torch.autograd.grad(total, [leaves.hidden, leaves.weight]))

        tensors = dict(hidden=hidden, weight=weight, targets=targets)
        self.add("token_cross_entropy", lambda op, t: op(t.hidden, t.weight, t.targets, 50), loss,
                 tensors=dict(**tensors, dy=torch.tensor(0.25)), gradients=("hidden", "weight"), wide=("dy",))
        self.add("token_cross_entropy_forward", lambda op, t: op(t.hidden, t.weight, t.targets, 50, [True, True]),
                 loss_and_gradients, tensors=tensors, outputs=("sum", "dhidden", "dweight"))

    def products(self):
        m, k, n, r = self.tokens, self.k, self.n, self.rank
        tensors = dict(x=self.random("x", m, k), w=self.random("w", n, k, scale=k**-0.5), s=self.random("s", m, r),
                       b=self.random("b", n, r, scale=0.3), scale=1 + self.random("column", n, scale=0.1))
        more = dict(wide=("scale", "b"))

        def pair(t):
            return t.x @ t.w.t() + t.s @ t.b.to(t.s.dtype).t()

        self.add("sum_of_products", lambda op, t: op([t.x, t.s], [t.w.t(), t.b.t()], SCALE),
                 lambda t: SCALE * pair(t), "x·Wᵀ + s·Bᵀ", tensors=tensors, **more)
        self.add("sum_of_products", lambda op, t: op([t.x, t.s], [t.w.t(), t.b.t()], 1.0, t.scale, wide_of(t.x)),
                 lambda t: pair(t) * t.scale.to(t.x.dtype), "by column, wide", tensors=tensors, **more)
        back = dict(dy=self.random("dy", m, n), w=tensors["w"], ds=self.random("ds", m, r),
                    a=self.random("a", r, k, scale=k**-0.5))
        self.add("sum_of_products", lambda op, t: op([t.dy, t.ds], [t.w, t.a]),
                 lambda t: t.dy @ t.w + t.ds @ t.a.to(t.dy.dtype), "dy·W + ds·A", tensors=back, wide=("a",))
        for accumulate in (True, False):
            self.add("sum_of_products_",
                     lambda op, t, add=accumulate: op(t.y, [t.x], [t.w.t()], SCALE, add),
                     lambda t, add=accumulate: SCALE * (t.x @ t.w.t()) + (t.y if add else 0),
                     "added" if accumulate else "written",
                     tensors=dict(y=self.random("y", m, n), x=tensors["x"], w=tensors["w"]))

    def low_rank(self, dropouts=(0.0, 0.05)):
        m, k, n, r = self.tokens, self.k, self.n, self.rank
        x, dy = self.random("x", m, k), self.random("dy", m, n)
        a, b = self.random("a", r, k, scale=k**-0.5), self.random("b", n, r, scale=0.3)
        shrunk, dshrunk = self.random("s", m, r), self.random("ds", m, r)
        seed = 12345678901234567
        for p in dropouts:
            takes = {op: has_argument(op, "p") for op in ("low_rank_shrink", "low_rank_gradient_a")}
            what = f"r={r}, p={p}"
            if p == 0 or takes["low_rank_shrink"]:
                self.add("low_rank_shrink",
                         lambda op, t, p=p: op(t.x, t.a, SCALE, **(dict(p=p, seed=seed) if p else {})),
                         lambda t, p=p: SCALE * (dropped(t.x, p, seed) @ t.a.to(t.x.dtype).t()), what,
                         tensors=dict(x=x, a=a), wide=("a",))
            if p == 0 or takes["low_rank_gradient_a"]:
                self.add("low_rank_gradient_a",
                         lambda op, t, p=p: op(t.ds, t.x, wide_of(t.x), **(dict(p=p, seed=seed) if p else {})),
                         lambda t, p=p: (t.ds.t() @ dropped(t.x, p, seed)), what, tensors=dict(ds=dshrunk, x=x))
            self.add("low_rank_gradient_x_", lambda op, t, p=p: op(t.dx, t.ds, t.a, p, seed),
                     lambda t, p=p: t.dx + dropped(t.ds @ t.a.to(t.ds.dtype), p, seed), what,
                     tensors=dict(dx=self.random("dx", m, k), ds=dshrunk, a=a), wide=("a",))
        for mask in ([True, True], [True, False], [False, True]):
            self.add("low_rank_gradient_b", lambda op, t, mask=mask: op(t.dy, t.s, t.b, SCALE, mask),
                     lambda t, mask=mask: (SCALE * (t.dy @ t.b.to(t.dy.dtype)) if mask[0] else None,
                                           t.dy.t() @ t.s if mask[1] else None),
                     f"r={r}, {'dS' * mask[0]}{'dB' * mask[1]}", tensors=dict(dy=dy, s=shrunk, b=b), wide=("b",),
                     outputs=("dshrunk", "db"))
        self.add("low_rank_gradient_b", lambda op, t: op(t.dy, None, t.b, SCALE, [True, False]),
                 lambda t: (SCALE * (t.dy @ t.b.to(t.dy.dtype)), None), f"r={r}, dS, without S",
                 tensors=dict(dy=dy, b=b), wide=("b",), outputs=("dshrunk", "db"))
        if "copy_padded_" in schemas():
            def padded(op, t):
                place_a, rest_a = places(functional.pad(t.a, (0, 0, 0, 3)).to(t.x.dtype), 1)
                place_b, rest_b = places(functional.pad(t.b, (0, 3)).to(t.x.dtype), 1)
                op([place_a, place_b], [t.a, t.b])
                untouched(rest_a)
                untouched(rest_b)
                return place_a, place_b

            self.add("copy_padded_", padded,
                     lambda t: (functional.pad(t.a, (0, 0, 0, 3)).to(t.x.dtype), functional.pad(t.b, (0, 3)).to(t.x.dtype)),
                     f"r={r}", tensors=dict(x=x, a=a, b=b), wide=("a", "b"), outputs=("a", "b"))
        if "low_rank_gradient_b_into" in schemas():
            for needs_db in (True, False):
                def in_place(op, t, needs_db=needs_db):
                    ds, rest = places(t.dy[:, :1].expand(-1, t.b.shape[1]), 1)
                    db = op(t.dy, t.s, t.b, SCALE, needs_db, ds)
                    untouched(rest)
                    return ds, db

                self.add("low_rank_gradient_b_into", in_place,
                         lambda t, needs_db=needs_db: (SCALE * (t.dy @ t.b.to(t.dy.dtype)),
                                                       t.dy.t() @ t.s if needs_db else None),
                         f"r={r}, dS{'dB' * needs_db}", tensors=dict(dy=dy, s=shrunk, b=b), wide=("b",),
                         outputs=("dshrunk", "db"))
        self.add("magnitude_gradient", lambda op, t: op(t.dy, t.z), lambda t: (t.dy * t.z).sum(0, dtype=wide_of(t.z)),
                 tensors=dict(dy=dy, z=self.random("z", m, n)))
        self.directed_gradients(dy)
        self.norm_rows(a, b)
        self.zero_magnitudes(x, dy, shrunk, b)
        for dora in (False, True):
            for p in dropouts:
                self.linear(dora, p, seed, x, dy, a, b)
            self.linear(dora, 0.0, seed, x, dy, a, b, frozen=True)
        self.linear(False, 0.0, seed, x, dy, a, torch.zeros_like(b), what="zero B, as the base")
        self.linear(True, 0.0, seed, x, dy, a, torch.zeros_like(b), what="zero B, as the base")
        self.linear(True, 0.0, seed, x, dy, a, b, zeros=True)

    def directed_gradients(self, dy):
        if "directed_gradient" in schemas():
            tensors = dict(dy=dy, scale=1 + self.random("scale", self.n, scale=0.1), y=self.random("z", *dy.shape))
            for with_sums in (True, False):
                self.add("directed_gradient", lambda op, t, with_sums=with_sums: op(
                             t.dy, t.scale, t.y if with_sums else None),
                         lambda t, with_sums=with_sums: (t.dy * t.scale.to(t.dy.dtype),
                                                         (t.dy * t.y).sum(0, dtype=wide_of(t.y)) if with_sums else None),
                         "with sums" if with_sums else "alone", tensors=tensors, wide=("scale",),
                         outputs=("dz", "sums"))
        if "directed_gradient_into" in schemas():
            def in_place(op, t):
                dz, rest = places(t.dy, 1)
                sums = op(t.dy, t.scale, t.y, dz)
                untouched(rest)
                return dz, sums

            self.add("directed_gradient_into", in_place,
                     lambda t: (t.dy * t.scale.to(t.dy.dtype), (t.dy * t.y).sum(0, dtype=wide_of(t.y))),
                     tensors=tensors, wide=("scale",), outputs=("dz", "sums"))

    def norm_rows(self, a, b):
        """‖W + s·B·A‖ by row, from products that do not have W's size."""
        if "dora_norm_rows" in schemas():
            w = self.random("w", self.n, self.k, scale=self.k**-0.5)
            tensors = dict(squared=w.square().sum(1), product=a @ w.t(), b=b, gram=a @ a.t())
            self.add("dora_norm_rows", lambda op, t: op(t.squared, t.product.t(), t.b, t.gram, SCALE),
                     lambda t: (t.squared + 2 * SCALE * (t.b * t.product.t()).sum(1)
                                + SCALE**2 * ((t.b @ t.gram) * t.b).sum(1)).clamp_min(0).sqrt(),
                     f"r={self.rank}", tensors=tensors, wide=tuple(tensors), dtypes=("float32",))

    def zero_magnitudes(self, x, dy, shrunk, b):
        """Only elements whose magnitude is 0 are written, and one of those has a norm of 0."""
        magnitude, norm = (1 + self.random(name, self.n).abs() for name in ("m", "norm"))
        magnitude[::17], norm[17] = 0, 0
        tensors = dict(gradient=self.random("dm", self.n), dy=dy, x=x,
                       w=self.random("w", self.n, self.k), s=shrunk, b=b,
                       magnitude=magnitude, norm=norm)

        def formula(t):
            z = t.x @ t.w.t() + t.s @ t.b.to(t.s.dtype).t()
            anew = (t.dy * z).sum(0, dtype=t.norm.dtype) / t.norm
            return torch.where(t.magnitude == 0, torch.where(t.norm > 0, anew, 0), t.gradient)

        if "zero_magnitude_gradient_" in schemas():
            self.add("zero_magnitude_gradient_",
                     lambda op, t: op(t.gradient, t.dy, t.x, t.w, t.s, t.b, t.magnitude, t.norm), formula,
                     f"r={self.rank}", tensors=tensors, wide=("gradient", "b", "magnitude", "norm"))

    def linear(self, dora, p, seed, x, dy, a, b, what="", zeros=False, frozen=False):
        n, k = self.n, self.k
        w = self.random("w", n, k, scale=k**-0.5)
        norm = (w.double() + SCALE * b.double() @ a.double()).norm(dim=1).float()
        factor = torch.ones(n) if not b.any() else 1 + self.random("m", n, scale=0.1)
        if zeros:
            factor[::13] = 0
        tensors = dict(x=x, w=w, a=a, b=b, bias=None if dora else self.random("bias", n),
                       magnitude=norm * factor if dora else None, dy=dy)
        kind = "DoRA" if dora else "LoRA"
        name = ", ".join(filter(None, [
            kind, f"r={self.rank}", f"p={p}", what, "zero magnitudes" * zeros, "A and B frozen" * frozen]))
        formula = lambda t: low_rank_linear(t, p, seed)
        if what:  # what B = 0 has to give: the frozen layer, by a formula that has no adapter at all
            formula = lambda t: t.x @ t.w.t() + (0 if t.bias is None else t.bias) + 0 * low_rank_linear(t, p, seed)
        gradients = ("x",) if what or frozen else ("x", "a", "b") + (("magnitude",) if dora else ("bias",))
        self.add("low_rank_linear", lambda op, t: op(t.x, t.w, t.bias, t.a, t.b, SCALE, p, seed, t.magnitude), formula,
                 name, tensors=tensors, gradients=gradients, wide=("a", "b", "magnitude"))


def places(like, count):
    """`count` tensors like this one side by side in rows of memory, and what lies behind them: sevens."""
    size = like.shape[-1]
    rows = torch.full((*like.shape[:-1], count * size + 8), 7.0, dtype=like.dtype, device=like.device)
    return *(rows[..., number * size:(number + 1) * size] for number in range(count)), rows[..., count * size:]


def untouched(rest):
    assert bool((rest == 7.0).all()), "something was written behind the rows"


def schemas():
    """rora's operators by name, as the library has declared them."""
    every = torch._C._jit_get_all_schemas()
    return {each.name.split("::")[1]: each for each in every if each.name.startswith("rora::")}


def has_argument(op, name):
    schema = schemas().get(op)
    return schema is not None and any(each.name == name for each in schema.arguments)
