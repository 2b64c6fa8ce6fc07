#pragma once

#include "adapter_flags.h"
#include "generation_flags.h"
#include "model_flags.h"
#include "start_flags.h"
#include "sweep_plan.h"
#include "training_flags.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// How a run's model is examined once it is trained.
enum class SweepTask { kChoice, kGeneration };

/// "choice", "generation": as `rora evaluate --task` has them.
const char* task_name(SweepTask task);

/// The flags of `rora sweep`.
struct SweepFlags {
  ModelFlags model;
  TrainingFlags training;
  AdapterFlags adapter; ///< its modules and dropout
  StartFlags start; ///< but --init, which the methods say
  GenerationFlags generation;
  std::vector<std::string> methods{"lora", "rora", "dora"};
  std::vector<std::string> alphas{"16"};
  std::vector<std::string> ranks{"4", "8", "16", "32", "64", "128", "256"};
  std::vector<std::string> lrs{"1e-4", "3e-4", "1e-3", "3e-3"};
  int64_t seeds = 3;
  std::vector<std::string> tasks;
  std::vector<std::string> test_data;
  int64_t limit = 0;
  bool merge = false;
  std::optional<std::string> reference_model;
  bool keep_weights = false;
  double within = 0.02;
  bool clip_given = false; ///< optimisers that read raw gradients have them clipped only then

  void add(Flags& flags);

  /// Throws `UsageError` for flags that cannot be or have no effect.
  SweepAxes axes(const Flags& flags);
  std::vector<SweepTask> task_list() const;
  /// --test-data, or --eval-data where it is not given.
  std::vector<std::string> test_files() const;
};

/// The flags, with their values, that all runs of a sweep have in common: a sweep that goes on must repeat them. Of
/// those of starts only the changed ones: sweeps from before there were such flags know nothing of them.
Json common_flags(const Flags& flags, const StartFlags& start);

} // namespace rora::cli
