#pragma once

#include "attention_mask.h"
#include "attention_operands.h"
#include "kernels.h"
#include "matrix_unit.h"
#include "tile.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

// Queries lie along the lanes: scores are kept transposed, `[keys, queries]`, so that maxima and sums over keys need no
// step across lanes, and each product's left side is either the tensor itself or packed once (after FlashAttention, Dao
// et al., arXiv 2205.14135, and FlashAttention-2, arXiv 2307.08691). A block has one tile's columns of queries and as
// many keys; blocks in which no query sees a key are left out, and of the others, registers of queries that stand
// before the keys.

template <class T>
class AttentionHead {
  using Form = Operand<T>;
  using W = typename Form::Wide;
  using Left = typename Form::Left;
  using Right = typename Form::Right;
  using Score = typename Form::Score;
  using V = Vector<W>;
  static constexpr int64_t kGroup = Form::kGroup;
  static constexpr int64_t kBlock = kAttentionBlock<W>;
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
    fill_zero(dk_, keys_ * dim_);
    fill_zero(dv_, keys_ * dim_);
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head) {
      for (int64_t begin = 0; begin < p_.queries; begin += kBlock) {
        backward_block(head, begin);
      }
    }
    const HeadRows<T> dk = rows(p_.dk, kv_head_, 0, p_.keys), dv = rows(p_.dv, kv_head_, 0, p_.keys);
    for (int64_t key = 0; key < p_.keys; ++key) {
      for_registers<W>(p_.head_dim, [&](int64_t j, int64_t count) {
        store(dk.row(key) + j, load(dk_ + key * dim_ + j), count);
        store(dv.row(key) + j, load(dv_ + key * dim_ + j), count);
      });
    }
  }

 private:
  HeadRows<T> rows(const AttentionParameters::Tensor& t, int64_t head, int64_t begin, int64_t count) const {
    T* data = static_cast<T*>(t.data) + batch_ * t.stride[0] + head * t.stride[1] + begin * t.stride[2];
    return {data, t.stride[2], count, p_.head_dim};
  }

  int64_t groups(int64_t count) const {
    return (count + kGroup - 1) / kGroup;
  }

  /// All keys' or values' rows turned, as the left side of a product that sums over keys: `across_` `[dim,
  /// keys/kGroup]`.
  void pack_across(const AttentionParameters::Tensor& t) {
    const int64_t ld = keys_ / kGroup;
    for (int64_t begin = 0; begin < keys_; begin += kBlock) {
      const int64_t count = p_.keys - begin < kBlock ? p_.keys - begin : kBlock;
      pack_tokens(rows(t, kv_head_, begin, count), dim_, reinterpret_cast<Right*>(rows_));
      transpose(rows_, dim_, reinterpret_cast<W*>(across_) + begin / kGroup, ld, kBlock / kGroup, dim_);
    }
  }

  /// f(key, count, first) for the keys [key, key + count), or for strips of them that are a register long: `first` is
  /// the first register of queries that sees any.
  template <class F>
  static void for_strips(const QueryBlock<W>& q, int64_t key, int64_t count, F&& f) {
    if (key + count - 1 <= q.first) {
      f(key, count, 0);
      return;
    }
    for (int64_t end = key + count; key < end; key += kLanes<W>) {
      const int first = AttentionMask<W>::first_register(q, key);
      if (first < kRegisters) {
        f(key, end - key < kLanes<W> ? end - key : kLanes<W>, first);
      }
    }
  }

  /// `out` `[count, kBlock]` = rows [key, key + count) of `t` · `right`, where queries see keys.
  void product_with_rows(
      const QueryBlock<W>& q, const AttentionParameters::Tensor& t, int64_t key, int64_t count, const Right* right,
      W* out) const {
    for_strips(q, key, count, [&](int64_t begin, int64_t size, int first) {
      const auto* left = reinterpret_cast<const Left*>(rows(t, kv_head_, begin, size).data);
      const int64_t column = first * kLanes<W>;
      small_product</*Accumulate=*/false>(
          left, t.stride[2] / kGroup, right + column, kBlock, out + (begin - key) * kBlock + column, kBlock, size,
          kBlock - column, p_.head_dim / kGroup);
    });
  }

  /// `sums_` `[dim, queries]` += (or =) `across_` of the keys [key, key + count) · `x` `[count, kBlock]`, where queries
  /// see keys.
  template <bool Accumulate>
  void product_over_keys(const QueryBlock<W>& q, int64_t key, int64_t count, const W* x) {
    const Score* left = across_ + key / kGroup;
    auto* right = reinterpret_cast<Right*>(weights_);
    if (AttentionMask<W>::reach(q, 0, key, count) == count) {
      pack_keys<T>(x, count, 0, kRegisters, right);
      small_product<Accumulate>(left, keys_ / kGroup, right, kBlock, sums_, kBlock, dim_, kBlock, groups(count));
      return;
    }
    for (int n = 0; n < kRegisters; ++n) {
      const int64_t reach = AttentionMask<W>::reach(q, n, key, count), column = n * kLanes<W>;
      pack_keys<T>(x, reach, n, n + 1, right);
      small_product<Accumulate>(
          left, keys_ / kGroup, right + column, kBlock, sums_ + column, kBlock, dim_, kLanes<W>, groups(reach));
    }
  }

  /// f(key, count) for each block of keys that a query sees, with their scores `[count, kBlock]` in `scores_`: −∞ where
  /// a query does not see a key. Registers of queries have scores of the keys that they reach.
  template <class F>
  void for_seen_keys(const QueryBlock<W>& q, F&& f) {
    for (int64_t key = 0; key < p_.keys; key += kBlock) {
      const int64_t count = p_.keys - key < kBlock ? p_.keys - key : kBlock;
      const Sight seen = mask_.sight(q, key, count);
      if (seen == Sight::kNone) {
        continue;
      }
      product_with_rows(q, p_.k, key, count, queries_, scores_);
      if (seen == Sight::kSome) {
        for_strips(q, key, count, [&](int64_t begin, int64_t size, int first) {
          mask_.hide(q, begin, size, first, scores_ + (begin - key) * kBlock);
        });
      }
      f(key, count);
    }
  }

  /// What a block of queries keeps of the keys before.
  struct Softmax {
    V most[kRegisters]; ///< the highest score, before it is scaled
    V total[kRegisters]; ///< Σ e^(scaled score − scaled most)
  };

  /// Turns the scores of a block of keys into e^(scaled score − scaled most), and what is summed up already along.
  void weigh(const QueryBlock<W>& q, int64_t key, int64_t count, bool first, Softmax& softmax) const {
    const V nothing = broadcast(-static_cast<W>(__builtin_inf()));
    const W scale = static_cast<W>(p_.scale);
    for (int n = 0; n < kRegisters; ++n) {
      W* column = scores_ + n * kLanes<W>;
      const int64_t reach = AttentionMask<W>::reach(q, n, key, count);
      V latest = softmax.most[n];
      for (int64_t j = 0; j < reach; ++j) {
        const V score = load(column + j * kBlock);
        latest = score > latest ? score : latest;
      }
      const V shift = latest == nothing ? V{} : latest * scale;
      if (!first) {
        const V shrink = exponential(softmax.most[n] * scale - shift);
        softmax.total[n] *= shrink;
        for (int64_t d = 0; d < dim_; ++d) {
          W* sum = sums_ + d * kBlock + n * kLanes<W>;
          store(sum, load(sum) * shrink);
        }
      }
      softmax.most[n] = latest;
      for (int64_t j = 0; j < reach; ++j) {
        const V weight = exponential(load(column + j * kBlock) * scale - shift);
        softmax.total[n] += weight;
        store(column + j * kBlock, weight);
      }
    }
  }

  void forward_block(int64_t head, int64_t begin) {
    const QueryBlock<W> q = mask_.queries(begin);
    pack_turned(rows(p_.q, head, begin, q.count), dim_, rows_, queries_);
    Softmax softmax;
    for (int n = 0; n < kRegisters; ++n) {
      softmax.most[n] = broadcast(-static_cast<W>(__builtin_inf()));
      softmax.total[n] = V{};
    }
    bool first = true;
    for_seen_keys(q, [&](int64_t key, int64_t count) {
      weigh(q, key, count, first, softmax);
      if (first) {
        product_over_keys</*Accumulate=*/false>(q, key, count, scores_);
      } else {
        product_over_keys</*Accumulate=*/true>(q, key, count, scores_);
      }
      first = false;
    });
    for (int n = 0; n < kRegisters; ++n) {
      const V inverse = 1 / softmax.total[n];
      for (int64_t d = 0; d < dim_; ++d) {
        W* sum = sums_ + d * kBlock + n * kLanes<W>;
        store(sum, load(sum) * inverse);
      }
    }
    write_turned(sums_, dim_, turned_, rows(p_.out, head, begin, q.count));
    if (p_.normaliser != nullptr) {
      W* normaliser = static_cast<W*>(p_.normaliser) + (batch_ * p_.heads + head) * p_.queries + begin;
      for (int64_t i = 0; i < q.count; ++i) {
        const int64_t n = i / kLanes<W>, lane = i % kLanes<W>;
        normaliser[i] = softmax.most[n][lane] * static_cast<W>(p_.scale) + logarithm(softmax.total[n][lane]);
      }
    }
  }

  /// δ = rowsum(dout⊙out) of the block's queries.
  void sum_rows(const HeadRows<T>& out, const HeadRows<T>& dout, V (&delta)[kRegisters]) const {
    W* products = gradients_; // `[kBlock, kLanes]`, turned below
    for (int64_t i = 0; i < out.count; ++i) {
      V sum = {};
      for_registers<W>(p_.head_dim, [&](int64_t j, int64_t size) {
        sum += load(out.row(i) + j, size) * load(dout.row(i) + j, size);
      });
      store(products + i * kLanes<W>, sum);
    }
    fill_zero(products + out.count * kLanes<W>, (kBlock - out.count) * kLanes<W>);
    transpose(products, kLanes<W>, scores_, kBlock, kBlock, kLanes<W>);
    for (int n = 0; n < kRegisters; ++n) {
      delta[n] = V{};
      for (int64_t lane = 0; lane < kLanes<W>; ++lane) {
        delta[n] += load(scores_ + lane * kBlock + n * kLanes<W>);
      }
    }
  }

  /// dv += wᵀ·dout; g = s·w⊙(dout·vᵀ − δ), δ = rowsum(dout⊙out); dk += gᵀ·q; dq = g·k; all with w, g `[keys, queries]`.
  void backward_block(int64_t head, int64_t begin) {
    const QueryBlock<W> q = mask_.queries(begin);
    const HeadRows<T> queries = rows(p_.q, head, begin, q.count), douts = rows(p_.dout, head, begin, q.count);
    pack_turned(queries, dim_, rows_, queries_);
    pack_turned(douts, dim_, rows_, douts_);
    pack_tokens(queries, dim_, query_rows_);
    pack_tokens(douts, dim_, dout_rows_);
    V normaliser[kRegisters] = {}, delta[kRegisters];
    sum_rows(rows(p_.out, head, begin, q.count), douts, delta);
    const W* normalisers = static_cast<const W*>(p_.normaliser) + (batch_ * p_.heads + head) * p_.queries + begin;
    for_registers<W>(
        q.count, [&](int64_t i, int64_t size) { normaliser[i / kLanes<W>] = load(normalisers + i, size); });
    bool is_first = true;
    for_seen_keys(q, [&](int64_t key, int64_t count) {
      product_with_rows(q, p_.v, key, count, douts_, gradients_);
      for_strips(q, key, count, [&](int64_t place, int64_t size, int first) {
        backward_strip(place, place - key, size, first, normaliser, delta);
      });
      if (is_first) {
        product_over_keys</*Accumulate=*/false>(q, key, count, gradients_);
      } else {
        product_over_keys</*Accumulate=*/true>(q, key, count, gradients_);
      }
      is_first = false;
    });
    write_turned(sums_, dim_, turned_, rows(p_.dq, head, begin, q.count));
  }

  /// Keys [key, key + count), whose scores begin at row `row`: their weights and their gradients' `[count, kBlock]`,
  /// and what these give dk and dv.
  void backward_strip(
      int64_t key, int64_t row, int64_t count, int first, const V (&normaliser)[kRegisters],
      const V (&delta)[kRegisters]) {
    const W scale = static_cast<W>(p_.scale);
    for (int64_t j = row; j < row + count; ++j) {
      for (int n = first; n < kRegisters; ++n) {
        W* score = scores_ + j * kBlock + n * kLanes<W>;
        W* gradient = gradients_ + j * kBlock + n * kLanes<W>;
        const V weight = exponential(load(score) * scale - normaliser[n]);
        store(score, weight);
        store(gradient, weight * (load(gradient) - delta[n]) * scale);
      }
    }
    const int64_t ld = kBlock / kGroup, skipped = first * kLanes<W> / kGroup, depth = ld - skipped;
    const Score* weights = pack_left<T>(scores_, row, count, first, left_weights_) + skipped;
    const Score* gradients = pack_left<T>(gradients_, row, count, first, left_gradients_) + skipped;
    W *dk = dk_ + key * dim_, *dv = dv_ + key * dim_;
    small_product<true>(weights, ld, dout_rows_ + skipped * dim_, dim_, dv, dim_, count, dim_, depth);
    small_product<true>(gradients, ld, query_rows_ + skipped * dim_, dim_, dk, dim_, count, dim_, depth);
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
  [[maybe_unused]] const TilesOf<T> tiles{};
  for (int64_t item = begin; item < end; ++item) {
    AttentionHead<T>(p, item / p.kv_heads, item % p.kv_heads, /*backward=*/false).forward();
  }
}

template <class T>
void attention_backward(const AttentionParameters& p, int64_t begin, int64_t end) {
  [[maybe_unused]] const TilesOf<T> tiles{};
  for (int64_t item = begin; item < end; ++item) {
    AttentionHead<T>(p, item / p.kv_heads, item % p.kv_heads, /*backward=*/true).backward();
  }
}

} // namespace rora::kernels::RORA_CPU_CAPABILITY
