#pragma once

#include "kernels.h"
#include "vector.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

template <class T>
RORA_INLINE T* row(const Rows& rows, int64_t i) {
  return static_cast<T*>(rows.data) + i * rows.stride;
}

template <class T>
void rms_norm(const RMSNormParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = row<T>(p.x, i);
    T* y = row<T>(p.y, i);
    Vector<W> squares = {};
    if (p.added.data != nullptr) {
      const T* added = row<T>(p.added, i);
      T* sum = row<T>(p.sum, i);
      for_registers<W>(p.size, [&](int64_t j, int64_t count) {
        const Vector<W> v = round_to<T>(load(x + j, count) + load(added + j, count));
        store(sum + j, v, count);
        squares += v * v;
      });
      x = sum;
    } else {
      for_registers<W>(p.size, [&](int64_t j, int64_t count) {
        const Vector<W> v = load(x + j, count);
        squares += v * v;
      });
    }
    const W rstd = 1 / square_root(sum_lanes<W>(squares) / static_cast<W>(p.size) + static_cast<W>(p.eps));
    static_cast<W*>(p.rstd)[i] = rstd;
    for_registers<W>(p.size, [&](int64_t j, int64_t count) {
      store(y + j, round_to<T>(load(x + j, count) * rstd) * load(weight + j, count), count);
    });
  }
}

/// dx = rstd·(g − x̂·mean(g⊙x̂)) + dsum, g = dy⊙weight, x̂ = x·rstd.
template <class T>
void rms_norm_backward(const RMSNormParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = row<T>(p.x, i);
    const T* dy = row<T>(p.dy, i);
    T* dx = row<T>(p.dx, i);
    const W rstd = static_cast<const W*>(p.rstd)[i];
    Vector<W> products = {};
    for_registers<W>(p.size, [&](int64_t j, int64_t count) {
      products += load(dy + j, count) * load(weight + j, count) * load(x + j, count);
    });
    const W mean = sum_lanes<W>(products) * rstd / static_cast<W>(p.size);
    const T* dsum = p.dsum.data != nullptr ? row<T>(p.dsum, i) : nullptr;
    for_registers<W>(p.size, [&](int64_t j, int64_t count) {
      const Vector<W> g = load(dy + j, count) * load(weight + j, count);
      const Vector<W> own = (g - load(x + j, count) * (rstd * mean)) * rstd;
      store(dx + j, dsum != nullptr ? own + load(dsum + j, count) : own, count);
    });
  }
}

template <class T>
void swiglu(const SwiGLUParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  for (int64_t i = begin; i < end; ++i) {
    const T* gate = row<T>(p.gate, i);
    const T* up = row<T>(p.up, i);
    T* y = row<T>(p.y, i);
    for_registers<W>(p.size, [&](int64_t j, int64_t count) {
      const Vector<W> g = load(gate + j, count);
      const Vector<W> silu = round_to<T>(g / (1 + exponential(-g)));
      store(y + j, silu * load(up + j, count), count);
    });
  }
}

/// dgate = dy⊙up⊙σ(g)(1 + g(1 − σ(g))), dup = dy⊙g⊙σ(g).
template <class T>
void swiglu_backward(const SwiGLUParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  for (int64_t i = begin; i < end; ++i) {
    const T* gate = row<T>(p.gate, i);
    const T* up = row<T>(p.up, i);
    const T* dy = row<T>(p.dy, i);
    T* dgate = row<T>(p.dgate, i);
    T* dup = row<T>(p.dup, i);
    for_registers<W>(p.size, [&](int64_t j, int64_t count) {
      const Vector<W> g = load(gate + j, count);
      const Vector<W> d = load(dy + j, count);
      const Vector<W> sigmoid = 1 / (1 + exponential(-g));
      const Vector<W> u = load(up + j, count);
      store(dup + j, d * (g * sigmoid), count);
      store(dgate + j, d * u * sigmoid * (1 + g * (1 - sigmoid)), count);
    });
  }
}

template <class T>
void rotary(const RotaryParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  const int64_t half = p.head_dim / 2;
  const W sign = p.inverse ? -1 : 1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t batch = item / p.seq;
    const int64_t place = item % p.seq;
    const int64_t table = batch * p.table_batch_stride + place * p.head_dim;
    const T* cos = static_cast<const T*>(p.cos) + table;
    const T* sin = static_cast<const T*>(p.sin) + table;
    for (int64_t head = 0; head < p.heads; ++head) {
      const T* x = static_cast<const T*>(p.x) + batch * p.x_stride[0] + head * p.x_stride[1] + place * p.x_stride[2];
      T* y = static_cast<T*>(p.y) + batch * p.y_stride[0] + head * p.y_stride[1] + place * p.y_stride[2];
      for_registers<W>(half, [&](int64_t j, int64_t count) {
        const Vector<W> first = load(x + j, count);
        const Vector<W> second = load(x + half + j, count);
        store(y + j, first * load(cos + j, count) - second * (sign * load(sin + j, count)), count);
        store(y + half + j, second * load(cos + half + j, count) + first * (sign * load(sin + half + j, count)), count);
      });
    }
  }
}

template <class T>
void cross_entropy(const CrossEntropyParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  for (int64_t i = begin; i < end; ++i) {
    T* logits = row<T>(p.logits, i);
    const int64_t target = p.targets[i];
    if (target == CrossEntropyParameters::kIgnored) {
      static_cast<W*>(p.losses)[i] = 0;
      for_registers<W>(
          p.gradient ? p.vocab : 0, [&](int64_t j, int64_t count) { store(logits + j, Vector<W>{}, count); });
      continue;
    }
    Vector<W> most = broadcast(-static_cast<W>(__builtin_inf()));
    for_registers<W>(p.vocab, [&](int64_t j, int64_t count) {
      // The last register is moved back over lanes that were seen already, which changes no maximum.
      const int64_t from = count == kLanes<W> || p.vocab < kLanes<W> ? j : p.vocab - kLanes<W>;
      Vector<W> v = load(logits + from, p.vocab < kLanes<W> ? count : kLanes<W>);
      for (int64_t lane = count; p.vocab < kLanes<W> && lane < kLanes<W>; ++lane) {
        v[lane] = v[0];
      }
      most = v > most ? v : most;
    });
    const W shift = max_lanes<W>(most);
    Vector<W> sums = {};
    for_registers<W>(p.vocab, [&](int64_t j, int64_t count) {
      Vector<W> e = exponential(load(logits + j, count) - shift);
      for (int64_t lane = count; lane < kLanes<W>; ++lane) {
        e[lane] = 0;
      }
      sums += e;
    });
    const W normaliser = shift + logarithm(sum_lanes<W>(sums));
    static_cast<W*>(p.losses)[i] = normaliser - widen(logits[target]);
    if (p.gradient) {
      // d loss / d logits = softmax(logits) − onehot(target)
      Vector<W> lanes = {};
      lanes[0] = widen(logits[target]) - normaliser;
      const W at_target = exponential(lanes)[0] - 1;
      for_registers<W>(p.vocab, [&](int64_t j, int64_t count) {
        store(logits + j, exponential(load(logits + j, count) - normaliser), count);
      });
      Vector<W> value = {};
      value[0] = at_target;
      store(logits + target, value, 1);
    }
  }
}

template <class T>
void column_sum(const ColumnSumParameters& p, int64_t begin, int64_t end) {
  using W = wide_t<T>;
  constexpr int64_t kRegisters = ColumnSumParameters::kColumns / kLanes<W>;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item * ColumnSumParameters::kColumns;
    const int64_t columns =
        p.columns - first < ColumnSumParameters::kColumns ? p.columns - first : ColumnSumParameters::kColumns;
    Vector<W> sums[kRegisters] = {};
    for (int64_t i = 0; i < p.rows; ++i) {
      const T* a = row<T>(p.a, i) + first;
      const T* b = row<T>(p.b, i) + first;
      for_registers<W>(
          columns, [&](int64_t j, int64_t count) { sums[j / kLanes<W>] += load(a + j, count) * load(b + j, count); });
    }
    for_registers<W>(columns, [&](int64_t j, int64_t count) {
      store(static_cast<W*>(p.sums) + first + j, sums[j / kLanes<W>], count);
    });
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
