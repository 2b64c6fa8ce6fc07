#pragma once

#include "sweep_flags.h"
#include "sweep_plan.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora::cli {

/// What a model answered: see `SweepEvaluation::measure`.
struct TaskScore {
  double accuracy = 0.0;
  double standard_error = 0.0;
  double unparsed = 0.0;
  int64_t count = 0;
};

/// What a model reached on the validation data, and in each of --tasks.
struct Reached {
  double eval_loss = 0.0;
  std::map<std::string, TaskScore> tasks; ///< by `task_name`
};

/// A finished run, as its folder tells of it.
struct SweepResult {
  SweepRun run;
  /// The steps taken when a loss was not finite; of what follows there are then the steps alone.
  std::optional<int64_t> diverged_after;
  Reached reached; ///< with the weights of the best validation
  int64_t steps = 0;
  int64_t best_step = 0;
  int64_t trainable = 0;
  double trainable_percent = 0.0;
  std::vector<double> losses; ///< of each step, on what it trained on
  std::vector<double> gradient_norms; ///< before clipping
  std::vector<std::pair<int64_t, double>> validations; ///< by step
  double start_seconds = 0.0; ///< that capturing and decomposing took
  double seconds = 0.0; ///< of the steps alone
  double tokens_per_s = 0.0;
  int64_t peak_mib = 0; ///< of the GPU where the run was on one, else of the process
};

/// A JSON object. Throws `FileError` and `FormatError`.
Json read_json(const std::filesystem::path& file);

/// The result of a finished run. Throws `FileError` and `FormatError`.
SweepResult read_result(const std::filesystem::path& folder, const SweepRun& run);

/// A JSON object with "eval_loss" and "tasks".
Reached read_reached(const std::filesystem::path& file);

/// All that a report tells.
struct SweepReport {
  SweepAxes axes;
  Json common; ///< `common_flags`
  std::vector<std::string> tasks;
  double within = 0.02;
  int64_t total_steps = 0; ///< of a run that neither diverges nor stops early
  Reached base; ///< before any training
  std::optional<Reached> reference; ///< of --reference-model
  std::vector<SweepResult> results; ///< in the order of `SweepAxes::runs`
};

} // namespace rora::cli
