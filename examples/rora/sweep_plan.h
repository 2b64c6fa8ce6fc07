#pragma once

#include "methods.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// α of a run: a number, or so many times the rank.
struct AlphaRule {
  double factor = 16.0;
  bool of_rank = false;

  std::string text() const; ///< "16", "2r"

  double at(int64_t rank) const {
    return of_rank ? factor * static_cast<double>(rank) : factor;
  }
  bool operator==(const AlphaRule& other) const {
    return factor == other.factor && of_rank == other.of_rank;
  }
};

/// One training.
struct SweepRun {
  const Method* method = nullptr;
  AlphaRule alpha; ///< of a method that has one
  int64_t rank = 0; ///< 0: the method has none
  double lr = 0.0;
  int64_t seed = 0;

  /// The name of its folder: "rora-alpha16-r8-lr0.0003-seed42".
  std::string name() const;
};

/// The values of --methods, --ranks, --alphas, --lrs, --seeds and --seed.
struct SweepAxes {
  std::vector<const Method*> methods;
  std::vector<AlphaRule> alphas;
  std::vector<int64_t> ranks; ///< from the lowest on
  std::vector<double> lrs; ///< from the lowest on
  std::vector<int64_t> seeds;

  /// Every combination once, seed by seed, so that a part of a sweep compares all methods.
  std::vector<SweepRun> runs() const;
};

/// Throws `UsageError` for what is no such value, for one that stands twice, and for seeds beyond 64 bits.
SweepAxes read_axes(
    const std::vector<std::string>& methods, const std::vector<std::string>& alphas,
    const std::vector<std::string>& ranks, const std::vector<std::string>& lrs, int64_t seeds, int64_t first_seed);

inline constexpr int64_t kMaxRank = 65536;

/// The shortest text that reads back the same: "16", "0.0003".
std::string number_text(double value);

} // namespace rora::cli
