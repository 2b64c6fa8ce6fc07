#pragma once

#include <array>
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

  std::array<int64_t, 7> numbers() const {
    return {rows, columns, depth, rank, transposed, accumulates, device};
  }
  bool operator==(const SumShape&) const = default;
};

/// The low-rank products that read an activation `[rows, columns]`.
enum class ThinPass { kShrink, kGradientB, kGradientA };

/// What says which form of such a product is the fastest.
struct ThinShape {
  ThinPass pass{};
  int64_t rows = 0; ///< as of `SumShape`
  int64_t columns = 0, rank = 0;
  bool in_bfloat16 = true;
  bool in_part = false; ///< one alone of dS and dB
  int64_t device = 0;

  std::array<int64_t, 7> numbers() const {
    return {static_cast<int64_t>(pass), rows, columns, rank, in_bfloat16, in_part, device};
  }
  bool operator==(const ThinShape&) const = default;
};

template <class Shape>
struct ShapeHash {
  size_t operator()(const Shape& shape) const {
    size_t hash = 0;
    for (const int64_t each : shape.numbers()) {
      hash ^= std::hash<int64_t>()(each) + size_t{0x9E3779B97F4A7C15u} + (hash << 6) + (hash >> 2);
    }
    return hash;
  }
};

/// A shape, on any device of the kind that was measured, and the number of the form that was found the fastest.
struct TunedSum {
  int64_t rows, columns, depth, rank;
  bool transposed, accumulates;
  int form;

  SumShape shape() const {
    return {rows, columns, depth, rank, transposed, accumulates};
  }
};
struct TunedThin {
  ThinPass pass;
  int64_t rows, columns, rank;
  int form;

  ThinShape shape() const {
    return {pass, rows, columns, rank};
  }
};

/// Forms that were found before, by shape.
template <class Tuned>
class TunedForms {
 public:
  using Shape = decltype(Tuned().shape());

  explicit TunedForms(const std::vector<Tuned>& found) {
    for (const Tuned& each : found) {
      forms_[each.shape()] = each.form;
    }
  }
  /// 0 for a shape that is not among them.
  int of(Shape shape) const {
    shape.device = 0;
    const auto found = forms_.find(shape);
    return found != forms_.end() ? found->second : 0;
  }

 private:
  std::unordered_map<Shape, int, ShapeHash<Shape>> forms_;
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
template <class Shape>
class FastestForms {
 public:
  /// `time(form)` says what a form takes, and infinity of one that does not work. Where nothing may be timed now, a new
  /// shape gets form 0, and may be timed the next time.
  template <class Time>
  int choose(const Shape& shape, int count, bool may_time, const Time& time) {
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
  std::unordered_map<Shape, int, ShapeHash<Shape>> found_;
};

} // namespace rora::ops::detail
