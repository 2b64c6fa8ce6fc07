#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace rora::ops::detail {

/// What says which form of a sum of a deep and a thin product is the fastest.
struct SumShape {
  int64_t rows = 0; ///< rounded up to a power of two, so that batches of ever new lengths are not timed each
  int64_t columns = 0, depth = 0, rank = 0;
  bool transposed = false; ///< the right sides lie as their transposes
  bool accumulates = false;
  int64_t device = 0;

  bool operator==(const SumShape&) const = default;
};

struct SumShapeHash {
  size_t operator()(const SumShape& s) const {
    size_t hash = 0;
    for (const int64_t each :
         {s.rows, s.columns, s.depth, s.rank, int64_t{s.transposed}, int64_t{s.accumulates}, s.device}) {
      hash ^= std::hash<int64_t>()(each) + size_t{0x9E3779B97F4A7C15u} + (hash << 6) + (hash >> 2);
    }
    return hash;
  }
};

/// A shape, on whatever device, and the number of the form that was found the fastest.
struct TunedSum {
  int64_t rows, columns, depth, rank;
  bool transposed, accumulates;
  int form;
};

/// Forms that were found before, by shape.
class TunedForms {
 public:
  explicit TunedForms(const std::vector<TunedSum>& found) {
    for (const TunedSum& each : found) {
      forms_[{each.rows, each.columns, each.depth, each.rank, each.transposed, each.accumulates, 0}] = each.form;
    }
  }
  /// 0 for a shape that is not among them.
  int of(SumShape shape) const {
    shape.device = 0;
    const auto found = forms_.find(shape);
    return found != forms_.end() ? found->second : 0;
  }

 private:
  std::unordered_map<SumShape, int, SumShapeHash> forms_;
};

inline int64_t power_of_two_from(int64_t size) {
  int64_t power = 1;
  while (power < size) {
    power *= 2;
  }
  return power;
}

/// Which of several forms, numbered from 0, is the fastest for a shape: found once for each. Form 0 always works.
/// Several threads may share it.
class FastestForms {
 public:
  /// `time(form)` says what a form takes, and infinity of one that does not work. Where nothing may be timed now, a new
  /// shape gets form 0, and may be timed the next time.
  template <class Time>
  int choose(const SumShape& shape, int count, bool may_time, const Time& time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto known = found_.find(shape); known != found_.end()) {
      return known->second;
    }
    if (!may_time) {
      return 0;
    }
    int best = 0;
    float least = std::numeric_limits<float>::infinity();
    for (int form = 0; form < count; ++form) {
      if (const float taken = time(form); taken < least) {
        least = taken;
        best = form;
      }
    }
    if (found_.size() >= kMostShapes) {
      found_.clear();
    }
    found_.emplace(shape, best);
    return best;
  }

 private:
  static constexpr size_t kMostShapes = 16384;
  std::mutex mutex_; // guards the rest
  std::unordered_map<SumShape, int, SumShapeHash> found_;
};

} // namespace rora::ops::detail
