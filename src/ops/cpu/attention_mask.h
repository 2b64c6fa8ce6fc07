#pragma once

#include "kernels.h"
#include "tile.h"

namespace rora::kernels::RORA_CPU_CAPABILITY {

/// A block of queries: where they stand among the keys, and in which sequences.
template <class W>
struct QueryBlock {
  int64_t first = 0; ///< of the block, as a place among the keys
  int64_t count = 0;
  Vector<W> place[kTileVectors];
  Vector<W> sequence[kTileVectors];
  Vector<W> position[kTileVectors]; ///< by which a window counts
  int64_t least = 0, most = 0; ///< of the sequences
  int64_t first_position = 0, last_position = 0;
};

/// How many of a block's pairs of query and key may look at each other.
enum class Sight { kNone, kSome, kAll };

/// Which keys the queries of one row of a batch see: those of their own sequence, up to themselves and, where there is
/// a window, no further away than it reaches, but for the prefix. Positions never fall from a key to the next.
template <class W>
class AttentionMask {
 public:
  static constexpr int64_t kBlock = kTileColumns<W>; ///< queries of a block, and keys

  AttentionMask(const AttentionParameters& p, int64_t batch)
      : queries_(p.queries),
        keys_(p.keys),
        window_(p.window),
        prefix_(p.prefix),
        sequence_(p.sequence == nullptr ? nullptr : p.sequence + batch * p.keys),
        position_(p.position == nullptr ? nullptr : p.position + batch * p.keys) {}

  /// The queries [begin, begin + kBlock), as far as there are any; lanes behind them repeat the last.
  QueryBlock<W> queries(int64_t begin) const {
    QueryBlock<W> q;
    q.count = queries_ - begin < kBlock ? queries_ - begin : kBlock;
    q.first = keys_ - queries_ + begin;
    q.least = q.most = sequence(q.first);
    q.first_position = position(q.first);
    q.last_position = position(q.first + q.count - 1);
    for (int64_t i = 0; i < kBlock; ++i) {
      const int64_t place = q.first + (i < q.count ? i : q.count - 1);
      const int64_t own = sequence(place);
      q.least = own < q.least ? own : q.least;
      q.most = own > q.most ? own : q.most;
      q.place[i / kLanes<W>][i % kLanes<W>] = static_cast<W>(place);
      q.sequence[i / kLanes<W>][i % kLanes<W>] = static_cast<W>(own);
      q.position[i / kLanes<W>][i % kLanes<W>] = static_cast<W>(position(place));
    }
    return q;
  }

  /// How much of the keys [key, key + count) the queries see.
  Sight sight(const QueryBlock<W>& q, int64_t key, int64_t count) const {
    const bool beyond = window_ > 0 && key >= prefix_ && q.first_position - position(key + count - 1) >= window_;
    if (key > q.first + q.count - 1 || beyond) {
      return Sight::kNone;
    }
    const bool within = window_ == 0 || key + count <= prefix_ || q.last_position - position(key) < window_;
    const bool before = within && key + count - 1 <= q.first;
    if (sequence_ == nullptr) {
      return before ? Sight::kAll : Sight::kSome;
    }
    int64_t least = INT64_MAX, most = 0;
    bool padding = false;
    for (int64_t j = key; j < key + count; ++j) {
      const int64_t own = sequence(j);
      padding |= own == 0;
      least = own > 0 && own < least ? own : least;
      most = own > most ? own : most;
    }
    // A query always sees itself, whatever its sequence.
    const bool holds_a_query = key + count > q.first;
    if (!holds_a_query && (most < q.least || least > q.most)) {
      return Sight::kNone;
    }
    return before && !padding && least == most && q.least == most && q.most == most ? Sight::kAll : Sight::kSome;
  }

  /// How many of the keys [key, key + count) stand no later than the last query of register n: it sees no others.
  static int64_t reach(const QueryBlock<W>& q, int n, int64_t key, int64_t count) {
    const int64_t reach = q.first + (n + 1) * kLanes<W> - key;
    return reach < 0 ? 0 : reach < count ? reach : count;
  }

  /// The first register of queries that reaches `key`.
  static int first_register(const QueryBlock<W>& q, int64_t key) {
    return key <= q.first ? 0 : static_cast<int>((key - q.first) / kLanes<W>);
  }

  /// Sets what is not seen of the scores `[count, kBlock]` of the keys [key, key + count) to −∞, in the registers from
  /// `first` on.
  void hide(const QueryBlock<W>& q, int64_t key, int64_t count, int first, W* scores) const {
    const Vector<W> nothing = broadcast(-static_cast<W>(__builtin_inf()));
    for (int64_t j = 0; j < count; ++j) {
      const W place = static_cast<W>(key + j);
      const W own = static_cast<W>(sequence(key + j));
      const bool far = window_ > 0 && key + j >= prefix_;
      const W end = static_cast<W>(position(key + j) + window_); // of the positions that see it
      for (int n = first; n < kTileVectors; ++n) {
        W* score = scores + j * kBlock + n * kLanes<W>;
        Vector<W> seen = load(score);
        if (own > 0) {
          seen = q.sequence[n] == own ? seen : nothing;
        } else {
          seen = nothing;
        }
        if (far) {
          seen = q.position[n] < end ? seen : nothing;
        }
        // A padding query sees itself, as a softmax over nothing is NaN.
        seen = q.place[n] == place ? load(score) : seen;
        store(score, q.place[n] >= place ? seen : nothing);
      }
    }
  }

 private:
  int64_t sequence(int64_t key) const {
    return sequence_ == nullptr ? 1 : sequence_[key];
  }

  int64_t position(int64_t key) const {
    return position_ == nullptr ? key : position_[key];
  }

  int64_t queries_, keys_, window_, prefix_;
  const int64_t* sequence_;
  const int64_t* position_;
};

} // namespace rora::kernels::RORA_CPU_CAPABILITY
