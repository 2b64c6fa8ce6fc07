#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rora::demo {

/// SplitMix64 (Steele, Lea and Flood, 2014): the same numbers on every platform, which the standard library's
/// distributions do not promise.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  /// From 0 to n − 1, n ≥ 1. The bias is below n·2⁻⁶⁴.
  size_t below(size_t n) {
    return static_cast<size_t>(next() % n);
  }

  /// True with probability `percent` / 100.
  bool chance(size_t percent) {
    return below(100) < percent;
  }

  template <typename T>
  const T& choose(const std::vector<T>& values) {
    return values[below(values.size())];
  }

 private:
  uint64_t state_;
};

} // namespace rora::demo
