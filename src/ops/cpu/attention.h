#pragma once

#include "attention_mask.h"
#include "kernels.h"
#include "tile.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

// Queries lie along the lanes: scores are kept transposed, `[keys, queries]`, so that maxima and sums over keys need no
// step across lanes, and each product's left side is either the tensor itself or packed once (after FlashAttention,
// Dao et al., arXiv 2205.14135, and FlashAttention-2, arXiv 2307.08691). A block has one tile's columns of queries and as
// many keys; blocks in which no query sees a key are left out.

/// How a product's two sides are stored: plain numbers on the right side in the wide type, or pairs of bfloat16, neighbours
/// along the sum, on both.
template <class T, bool Pairs>
struct Operand {
  using Wide = wide_t<T>;
  using Left = T; ///< of the tensors themselves
  using Right = Wide;
  using Score = Wide; ///< weights and their gradients on the left side
  static constexpr int64_t kGroup = 1;
};
template <>
struct Operand<BFloat16, true> {
  using Wide = float;
  using Left = BFloat16Pair;
  using Right = BFloat16Pair;
  using Score = BFloat16Pair;
  static constexpr int64_t kGroup = 2;
};

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

template <class T>
RORA_INLINE T* token(const AttentionParameters::Tensor& t, int64_t batch, int64_t head, int64_t place) {
  return static_cast<T*>(t.data) + batch * t.stride[0] + head * t.stride[1] + place * t.stride[2];
}

template <class T>
class AttentionHead {
  static constexpr bool kPairs = kHasPairs && sizeof(T) == 2;
  using Form = Operand<T, kPairs>;
  using W = typename Form::Wide;
  using Left = typename Form::Left;
  using Right = typename Form::Right;
  using Score = typename Form::Score;
  using V = Vector<W>;
  static constexpr int64_t kGroup = Form::kGroup;
  static constexpr int64_t kBlock = AttentionMask<W>::kBlock;
  static constexpr int kRegisters = kTileVectors;

 public:
  AttentionHead(const AttentionParameters& p, int64_t batch, int64_t kv_head, bool backward)
      : p_(p), mask_(p, batch), batch_(batch), kv_head_(kv_head) {
    keys_ = round_up(p.keys, kBlock);
    dim_ = round_up(p.head_dim, kLanes<W>);
    static thread_local Workspace workspace;
    const int64_t wide = static_cast<int64_t>(sizeof(W));
    int64_t bytes = 0;
    const auto plan = [&](int64_t size) {
      const int64_t begin = bytes;
      bytes += round_up(size, 64);
      return begin;
    };
    // In forward the values, in backward the keys: the left side of the product that sums over keys.
    const int64_t across = plan(dim_ * keys_ * wide);
    const int64_t rows = plan(kBlock * dim_ * wide);
    const int64_t queries = plan(dim_ * kBlock * wide);
    const int64_t scores = plan(kBlock * kBlock * wide);
    const int64_t weights = plan(kBlock * kBlock * wide);
    const int64_t sums = plan(dim_ * kBlock * wide);
    const int64_t turned = plan(dim_ * kBlock * wide);
    int64_t douts = 0, gradients = 0, query_rows = 0, dout_rows = 0, left_weights = 0, left_gradients = 0, dk = 0,
            dv = 0;
    if (backward) {
      douts = plan(dim_ * kBlock * wide);
      gradients = plan(kBlock * kBlock * wide);
      query_rows = plan(kBlock * dim_ * wide);
      dout_rows = plan(kBlock * dim_ * wide);
      left_weights = plan(kBlock * kBlock * wide);
      left_gradients = plan(kBlock * kBlock * wide);
      dk = plan(keys_ * dim_ * wide);
      dv = plan(keys_ * dim_ * wide);
    }
    char* base = workspace.reserve(bytes);
    const auto take = [&](auto*& pointer, int64_t begin) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + begin);
    };
    take(across_, across), take(rows_, rows), take(queries_, queries), take(scores_, scores), take(weights_, weights);
    take(sums_, sums), take(turned_, turned), take(douts_, douts), take(gradients_, gradients);
    take(query_rows_, query_rows), take(dout_rows_, dout_rows), take(left_weights_, left_weights);
    take(left_gradients_, left_gradients), take(dk_, dk), take(dv_, dv);
  }

  void forward() {
    pack_across(p_.v);
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head) {
      for (int64_t begin = 0; begin < p_.queries; begin += kBlock) {
        forward_block(head, begin);
      }
    }
  }

  void backward() {
    pack_across(p_.k);
    zero(dk_, keys_ * dim_);
    zero(dv_, keys_ * dim_);
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head) {
      for (int64_t begin = 0; begin < p_.queries; begin += kBlock) {
        backward_block(head, begin);
      }
    }
    for (int64_t key = 0; key < p_.keys; ++key) {
      write(token<T>(p_.dk, batch_, kv_head_, key), dk_ + key * dim_);
      write(token<T>(p_.dv, batch_, kv_head_, key), dv_ + key * dim_);
    }
  }

 private:
  static void zero(W* data, int64_t count) {
    __builtin_memset(data, 0, static_cast<size_t>(count) * sizeof(W));
  }

  /// One token's numbers in the wide type, zero behind head_dim.
  static void widen_row(const T* x, W* y, int64_t size, int64_t padded) {
    for_registers<W>(size, [&](int64_t j, int64_t count) { store(y + j, load(x + j, count)); });
    for (int64_t j = round_up(size, kLanes<W>); j < padded; ++j) {
      y[j] = 0;
    }
  }

  void write(T* y, const W* x) const {
    for_registers<W>(p_.head_dim, [&](int64_t j, int64_t count) { store(y + j, load(x + j), count); });
  }

  /// Rows [begin, begin + count) of `t` as the right side of a product that sums over them: `y` `[kBlock/kGroup, dim]`,
  /// zero behind `count`.
  void pack_rows(const AttentionParameters::Tensor& t, int64_t head, int64_t begin, int64_t count, Right* y) const {
    if constexpr (kPairs) {
      for (int64_t i = 0; i < kBlock; i += 2) {
        const T* even = i < count ? token<T>(t, batch_, head, begin + i) : nullptr;
        const T* odd = i + 1 < count ? token<T>(t, batch_, head, begin + i + 1) : nullptr;
        for_registers<W>(p_.head_dim, [&](int64_t j, int64_t size) {
          const V low = even != nullptr ? load(even + j, size) : V{};
          const V high = odd != nullptr ? load(odd + j, size) : V{};
          const Words words = (__builtin_bit_cast(Words, low) >> 16) | __builtin_bit_cast(Words, high);
          __builtin_memcpy(y + i / 2 * dim_ + j, &words, sizeof(words));
        });
      }
    } else {
      for (int64_t i = 0; i < kBlock; ++i) {
        if (i < count) {
          widen_row(token<T>(t, batch_, head, begin + i), y + i * dim_, p_.head_dim, dim_);
        } else {
          zero(y + i * dim_, dim_);
        }
      }
    }
  }

  /// The same rows turned, as the right side of a product that sums over head_dim: `y` `[dim/kGroup, kBlock]`.
  void pack_turned(const AttentionParameters::Tensor& t, int64_t head, int64_t begin, int64_t count, Right* y) {
    W* rows = rows_;
    if constexpr (kPairs) {
      const int64_t half = dim_ / 2;
      for (int64_t i = 0; i < kBlock; ++i) {
        W* own = rows + i * half;
        const int64_t size = i < count ? p_.head_dim / 2 : 0;
        if (i < count) {
          __builtin_memcpy(own, token<T>(t, batch_, head, begin + i), static_cast<size_t>(size) * sizeof(W));
        }
        zero(own + size, half - size);
      }
      transpose(rows, half, reinterpret_cast<W*>(y), kBlock, kBlock, half);
    } else {
      for (int64_t i = 0; i < kBlock; ++i) {
        if (i < count) {
          widen_row(token<T>(t, batch_, head, begin + i), rows + i * dim_, p_.head_dim, dim_);
        } else {
          zero(rows + i * dim_, dim_);
        }
      }
      transpose(rows, dim_, reinterpret_cast<W*>(y), kBlock, kBlock, dim_);
    }
  }

  /// All keys' or values' rows turned, as the left side of a product that sums over keys: `across_` `[dim, keys/kGroup]`.
  void pack_across(const AttentionParameters::Tensor& t) {
    const int64_t ld = keys_ / kGroup;
    for (int64_t begin = 0; begin < keys_; begin += kBlock) {
      const int64_t count = p_.keys - begin < kBlock ? p_.keys - begin : kBlock;
      pack_rows(t, kv_head_, begin, count, reinterpret_cast<Right*>(rows_));
      transpose(rows_, dim_, reinterpret_cast<W*>(across_) + begin / kGroup, ld, kBlock / kGroup, dim_);
    }
  }

  /// `scores_` = rows [key, key + count) of `t` · `right`.
  void product_with_rows(
      const AttentionParameters::Tensor& t, int64_t key, int64_t count, const Right* right, W* out) const {
    zero(out, count * kBlock);
    const auto* left = reinterpret_cast<const Left*>(token<T>(t, batch_, kv_head_, key));
    add_product<W>(
        left, t.stride[2] / kGroup, right, kBlock, out, kBlock, count, kBlock, p_.head_dim / kGroup);
  }

  /// `y` `[kBlock/kGroup, kBlock]`, the right side of a product that sums over keys, from `x` `[count, kBlock]`.
  static void pack_keys(const W* x, int64_t count, Right* y) {
    if constexpr (kPairs) {
      for (int64_t j = 0; j < count; j += 2) {
        for (int n = 0; n < kRegisters; ++n) {
          const W* even = x + j * kBlock + n * kLanes<W>;
          const Words low = widened_bits(load(even));
          const Words high = j + 1 < count ? widened_bits(load(even + kBlock)) : Words{};
          const Words words = low | (high << 16);
          __builtin_memcpy(y + j / 2 * kBlock + n * kLanes<W>, &words, sizeof(words));
        }
      }
    } else {
      __builtin_memcpy(y, x, static_cast<size_t>(count * kBlock) * sizeof(W));
    }
  }
  static Words widened_bits(Vector<float> v) {
    return __builtin_convertvector(round_to_bfloat16(v), Words);
  }

  /// `x` `[count, kBlock]` as the left side of a product that sums over queries.
  static const Score* pack_left(const W* x, int64_t count, W* y) {
    if constexpr (kPairs) {
      for (int64_t i = 0; i < count * kBlock; i += kLanes<W>) {
        store(reinterpret_cast<BFloat16*>(y) + i, load(x + i));
      }
      return reinterpret_cast<const Score*>(y);
    } else {
      return reinterpret_cast<const Score*>(x);
    }
  }

  int64_t groups(int64_t count) const {
    return (count + kGroup - 1) / kGroup;
  }

  /// f(key, count) for each block of keys that a query sees, with their scores `[count, kBlock]` in `scores_`: −∞ where a
  /// query does not see a key.
  template <class F>
  void for_seen_keys(const QueryBlock<W>& q, F&& f) {
    for (int64_t key = 0; key < p_.keys; key += kBlock) {
      const int64_t count = p_.keys - key < kBlock ? p_.keys - key : kBlock;
      const Sight seen = mask_.sight(q, key, count);
      if (seen == Sight::kNone) {
        continue;
      }
      product_with_rows(p_.k, key, count, queries_, scores_);
      if (seen == Sight::kSome) {
        mask_.hide(q, key, count, scores_);
      }
      f(key, count);
    }
  }

  /// `sums_` `[dim, queries]` into the rows [begin, begin + count) of `t`.
  void write_turned(const AttentionParameters::Tensor& t, int64_t head, int64_t begin, int64_t count) const {
    transpose(sums_, kBlock, turned_, dim_, dim_, kBlock);
    for (int64_t i = 0; i < count; ++i) {
      write(token<T>(t, batch_, head, begin + i), turned_ + i * dim_);
    }
  }

  void forward_block(int64_t head, int64_t begin) {
    const QueryBlock<W> q = mask_.queries(begin);
    pack_turned(p_.q, head, begin, q.count, queries_);
    zero(sums_, dim_ * kBlock);
    const V nothing = broadcast(-static_cast<W>(__builtin_inf()));
    const W scale = static_cast<W>(p_.scale);
    V most[kRegisters], total[kRegisters];
    for (int n = 0; n < kRegisters; ++n) {
      most[n] = nothing;
      total[n] = V{};
    }
    for_seen_keys(q, [&](int64_t key, int64_t count) {
      for (int n = 0; n < kRegisters; ++n) {
        W* column = scores_ + n * kLanes<W>;
        V latest = most[n];
        for (int64_t j = 0; j < count; ++j) {
          const V score = load(column + j * kBlock);
          latest = score > latest ? score : latest;
        }
        const V shift = latest == nothing ? V{} : latest * scale;
        const V shrink = exponential(most[n] * scale - shift);
        most[n] = latest;
        total[n] *= shrink;
        for (int64_t d = 0; d < dim_; ++d) {
          W* sum = sums_ + d * kBlock + n * kLanes<W>;
          store(sum, load(sum) * shrink);
        }
        for (int64_t j = 0; j < count; ++j) {
          const V weight = exponential(load(column + j * kBlock) * scale - shift);
          total[n] += weight;
          store(column + j * kBlock, weight);
        }
      }
      auto* weights = reinterpret_cast<Right*>(weights_);
      pack_keys(scores_, count, weights);
      add_product<W>(
          across_ + key / kGroup, keys_ / kGroup, weights, kBlock, sums_, kBlock, dim_, kBlock, groups(count));
    });
    for (int n = 0; n < kRegisters; ++n) {
      const V inverse = 1 / total[n];
      for (int64_t d = 0; d < dim_; ++d) {
        W* sum = sums_ + d * kBlock + n * kLanes<W>;
        store(sum, load(sum) * inverse);
      }
    }
    write_turned(p_.out, head, begin, q.count);
    if (p_.normaliser != nullptr) {
      W* normaliser = static_cast<W*>(p_.normaliser) + (batch_ * p_.heads + head) * p_.queries + begin;
      for (int64_t i = 0; i < q.count; ++i) {
        const int64_t n = i / kLanes<W>, lane = i % kLanes<W>;
        normaliser[i] = most[n][lane] * scale + logarithm(total[n][lane]);
      }
    }
  }

  /// dv += wᵀ·dout; g = s·w⊙(dout·vᵀ − δ), δ = rowsum(dout⊙out); dk += gᵀ·q; dq = g·k; all with w, g `[keys, queries]`.
  void backward_block(int64_t head, int64_t begin) {
    const QueryBlock<W> q = mask_.queries(begin);
    pack_turned(p_.q, head, begin, q.count, queries_);
    pack_turned(p_.dout, head, begin, q.count, douts_);
    pack_rows(p_.q, head, begin, q.count, query_rows_);
    pack_rows(p_.dout, head, begin, q.count, dout_rows_);
    zero(sums_, dim_ * kBlock);
    const W scale = static_cast<W>(p_.scale);
    V normaliser[kRegisters] = {}, delta[kRegisters] = {};
    for (int64_t i = 0; i < q.count; ++i) {
      const T* out = token<T>(p_.out, batch_, head, begin + i);
      const T* dout = token<T>(p_.dout, batch_, head, begin + i);
      V products = {};
      for_registers<W>(
          p_.head_dim, [&](int64_t j, int64_t count) { products += load(out + j, count) * load(dout + j, count); });
      delta[i / kLanes<W>][i % kLanes<W>] = sum_lanes<W>(products);
      normaliser[i / kLanes<W>][i % kLanes<W>] =
          static_cast<const W*>(p_.normaliser)[(batch_ * p_.heads + head) * p_.queries + begin + i];
    }
    for_seen_keys(q, [&](int64_t key, int64_t count) {
      product_with_rows(p_.v, key, count, douts_, gradients_);
      for (int64_t j = 0; j < count; ++j) {
        for (int n = 0; n < kRegisters; ++n) {
          W* score = scores_ + j * kBlock + n * kLanes<W>;
          W* gradient = gradients_ + j * kBlock + n * kLanes<W>;
          const V weight = exponential(load(score) * scale - normaliser[n]);
          store(score, weight);
          store(gradient, weight * (load(gradient) - delta[n]) * scale);
        }
      }
      const Score* weights = pack_left(scores_, count, left_weights_);
      const Score* gradients = pack_left(gradients_, count, left_gradients_);
      const int64_t ld = kBlock / kGroup;
      add_product<W>(weights, ld, dout_rows_, dim_, dv_ + key * dim_, dim_, count, dim_, ld);
      add_product<W>(gradients, ld, query_rows_, dim_, dk_ + key * dim_, dim_, count, dim_, ld);
      auto* right = reinterpret_cast<Right*>(weights_);
      pack_keys(gradients_, count, right);
      add_product<W>(across_ + key / kGroup, keys_ / kGroup, right, kBlock, sums_, kBlock, dim_, kBlock, groups(count));
    });
    write_turned(p_.dq, head, begin, q.count);
  }

  const AttentionParameters& p_;
  const AttentionMask<W> mask_;
  int64_t batch_, kv_head_;
  int64_t keys_ = 0, dim_ = 0; ///< rounded up
  Score* across_ = nullptr;
  W *rows_ = nullptr, *scores_ = nullptr, *weights_ = nullptr, *sums_ = nullptr, *turned_ = nullptr,
    *gradients_ = nullptr;
  W *left_weights_ = nullptr, *left_gradients_ = nullptr, *dk_ = nullptr, *dv_ = nullptr;
  Right *queries_ = nullptr, *douts_ = nullptr, *query_rows_ = nullptr, *dout_rows_ = nullptr;
};

template <class T>
void attention(const AttentionParameters& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    AttentionHead<T>(p, item / p.kv_heads, item % p.kv_heads, /*backward=*/false).forward();
  }
}

template <class T>
void attention_backward(const AttentionParameters& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    AttentionHead<T>(p, item / p.kv_heads, item % p.kv_heads, /*backward=*/true).backward();
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
