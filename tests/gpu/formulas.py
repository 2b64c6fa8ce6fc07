"""What rora's operators compute, in plain operations of PyTorch and in any dtype."""

import functools
import math

import torch

EPS = 1e-5
SCALE = 1.375
MASK32 = 0xFFFFFFFF


def philox_words(seed, count):
    """The first `count` words of Philox4x32-10 of this key, counters 0, 1, …: int64, on the CPU."""
    counter = torch.arange((count + 3) // 4, dtype=torch.int64)
    c = [counter & MASK32, (counter >> 32) & MASK32, torch.zeros_like(counter), torch.zeros_like(counter)]
    key = [seed & MASK32, (seed >> 32) & MASK32]
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57  # they wrap; the bits are right
        high0, high1 = (p0 >> 32) & MASK32, (p1 >> 32) & MASK32
        c = [high1 ^ c[1] ^ key[0], p1 & MASK32, high0 ^ c[3] ^ key[1], p0 & MASK32]
        key = [(key[0] + 0x9E3779B9) & MASK32, (key[1] + 0xBB67AE85) & MASK32]
    return torch.stack(c, 1).flatten()[:count]


@functools.lru_cache(maxsize=4)
def kept_elements(count, p, seed):
    return philox_words(seed, count) >= int(p * 2**32)


def dropped(x, p, seed):
    """x with elements dropped as include/rora/core/dropout.h says, and the others divided by 1 − p."""
    if p == 0:
        return x
    kept = kept_elements(x.numel(), p, seed)
    factor = torch.tensor(1.0 / (1.0 - p) if p < 1 else 0.0, dtype=torch.float32)
    mask = (kept * factor).reshape(x.shape)
    return x * mask.to(device=x.device, dtype=x.dtype)


def wide_of(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def rms_norm(x, weight):
    wide = x.to(wide_of(x))
    rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    return weight * (wide * rstd).to(x.dtype), rstd


def rms_norm_gradients(dy, x, weight):
    """dx and dweight, by hand, as an operator of its own has no graph."""
    wide = wide_of(x)
    _, rstd = rms_norm(x, weight)
    normed = x.to(wide) * rstd
    scaled = (dy * weight).to(wide)
    dx = rstd * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    return dx.to(x.dtype), (dy.to(wide) * normed).flatten(0, -2).sum(0)


def turned(x, cos, sin, inverse=False):
    first, second = x.chunk(2, -1)
    other = torch.cat([-second, first], -1) * sin.to(x.dtype).unsqueeze(1)
    return x * cos.to(x.dtype).unsqueeze(1) - other if inverse else x * cos.to(x.dtype).unsqueeze(1) + other


def visible(sequence, queries, keys, device):
    place = torch.arange(keys, device=device)
    query = place[keys - queries:].unsqueeze(1)
    seen = (place <= query).unsqueeze(0)
    if sequence is not None:
        same = (sequence[:, keys - queries:].unsqueeze(2) == sequence.unsqueeze(1)) & (sequence.unsqueeze(1) > 0)
        seen = (seen & same) | (place == query)
    return seen.unsqueeze(1)


def scores(q, k, sequence):
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    hidden = ~visible(sequence, q.shape[2], k.shape[2], q.device)
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).to(wide_of(q)).masked_fill(hidden, -math.inf)


def attention(q, k, v, sequence):
    weights = scores(q, k, sequence).softmax(-1).to(q.dtype)
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


def attention_gradients(t):
    leaves = [each.detach().requires_grad_() for each in (t.q, t.k, t.v)]
    with torch.enable_grad():
        return torch.autograd.grad(attention(*leaves, t.sequence), leaves, t.dout)


def low_rank_linear(t, p, seed):
    """LoRA or DoRA in eager operations, with PEFT's place for dropout."""
    x, dtype = t.x, t.x.dtype
    a, b = t.a.to(dtype), t.b.to(dtype)
    inside = dropped(x, p, seed)
    change = (inside @ a.t()) @ b.t() * SCALE
    if t.magnitude is None:
        y = x @ t.w.t() + change
    else:
        wide = wide_of(x)
        norm = (t.w.to(wide) + SCALE * t.b.to(wide) @ t.a.to(wide)).norm(dim=1).detach()
        n = (t.magnitude.to(wide) / norm).to(dtype)
        y = x @ t.w.t() + (n - 1) * (inside @ t.w.t()) + n * change
    return y if t.bias is None else y + t.bias
