#pragma once

#include "start.h"
#include "sweep_evaluation.h"
#include "sweep_flags.h"

#include <rora/model/causal_lm.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace rora::cli {

/// What all runs of a sweep share.
struct SweepContext {
  const SweepFlags& flags;
  const Json& common; ///< flags that all runs share, for run.json
  CausalLM base; ///< without adapters between runs
  const TrainingData& data;
  const SweepEvaluation& evaluation;
  const SharedStatistics& statistics; ///< which runs with the same start but another learning rate share
};

/// Where a signal asked to stop.
struct Interrupted {};

/// The model of a run, ready to be trained: the base with a fresh adapter, which goes with this object, or one of its
/// own where all weights are trained.
class Trainee {
 public:
  /// `folder` is the run's, empty for one that leaves no trace: how the adapter began is read there.
  Trainee(const SweepContext& context, const SweepRun& run, const std::filesystem::path& folder);
  ~Trainee();
  Trainee(const Trainee&) = delete;
  Trainee& operator=(const Trainee&) = delete;

  CausalLM model() const {
    return model_;
  }
  /// How the adapter began; none where all weights are trained.
  const std::optional<Start>& start() const {
    return start_;
  }

 private:
  void attach(const SweepContext& context, const SweepRun& run, const std::filesystem::path& folder);

  CausalLM model_;
  std::optional<Start> start_;
};

/// How the run's model, its adapter attached, is trained. With an empty `folder` it leaves no trace.
TrainerOptions trainer_options(
    const SweepFlags& flags, const SweepRun& run, const std::filesystem::path& folder, const CausalLM& model);

/// What a step of the run takes.
struct StepCost {
  double seconds = 0.0; ///< measured on a few steps that are thrown away
  int64_t tensors_mib = 0; ///< of memory, as estimated
};
StepCost measure_step(const SweepContext& context, const SweepRun& run);

/// Called as a run goes on: steps taken, and what is shown beside the bar.
using OnRunProgress = std::function<void(int64_t steps, const std::string& detail)>;

/// Trains and examines the run in `folder`, from where a killed process left it, and writes run.json with
/// "finished": true at the end; nothing happens where it stands there already. A loss that is not finite is a result:
/// "diverged_after_step". Throws `Interrupted`, with a checkpoint to go on from, and what a training throws.
void carry_out(
    const SweepContext& context, const SweepRun& run, const std::filesystem::path& folder,
    const OnRunProgress& on_progress);

/// Whether run.json says that the run in `folder` has ended.
bool is_finished(const std::filesystem::path& folder);

} // namespace rora::cli
