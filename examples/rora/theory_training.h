#pragma once

#include "model_flags.h"
#include "training_flags.h"

#include <rora/theory/first_step.h>
#include <rora/theory/growth.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// The flags of trainings by which `rora theory` measures a model.
struct GrowthFlags {
  std::optional<std::string> model;
  std::vector<std::string> data;
  int64_t steps = 200;
  double lr = 2e-4;
  int64_t batch_size = 8;
  int64_t max_length = 128;

  void add(Flags& flags);
  /// Throws `UsageError` for one of --model and --data without the other.
  void check() const;
};

/// One training: how far it moved each projection.
struct GrowthRun {
  theory::RankScale scale = theory::kRoraScale;
  int64_t rank = 0;
  double factor = 0.0; ///< γ
  std::map<int64_t, std::vector<theory::ProjectionGrowth>> measured; ///< by step
  std::optional<int64_t> stopped_before; ///< the first step whose loss or gradient was not finite
};

/// What trainings of a model at each rank and scale did, and what the gradient of the first batch says of their first
/// step.
struct ModelGrowth {
  std::string model;
  int64_t steps = 0;
  double lr = 0.0;
  std::vector<int64_t> ranks;
  std::vector<std::string> modules; ///< in the order of each measurement
  std::vector<GrowthRun> runs; ///< by rank, then by scale
  /// By rank, then by module: E‖ΔW·x‖² of AdamW's first step for η = γ = 1.
  std::map<int64_t, std::vector<double>> first_step;

  const GrowthRun& run(int64_t rank, const theory::RankScale& scale) const;
};

/// Trains an adapter of all default targets at each rank and scale by AdamW at a constant rate, the same examples in
/// the same order and the same seed for all, and measures each projection's change on inputs that the frozen model gave
/// it for examples that are not trained on. Throws `UsageError` for too few examples.
ModelGrowth measure_model_growth(
    const GrowthFlags& flags, ModelFlags model, const std::vector<int64_t>& ranks, double alpha, int64_t seed);

} // namespace rora::cli
