#pragma once

#include <rora/data/dataset.h>
#include <rora/error.h>
#include <rora/model/causal_lm.h>
#include <rora/training/device_memory.h>
#include <rora/training/hooks.h>
#include <rora/training/parameter_table.h>
#include <rora/training/step_graphs.h>
#include <rora/training/train_step.h>
#include <rora/training/trainer_options.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora {

/// What a step did. A validation that an earlier process was stopped in is reported by itself, with 0 tokens.
struct StepMetrics {
  int64_t step = 0; ///< from 1
  int64_t total_steps = 0;
  int64_t epoch = 0; ///< from 0
  double loss = 0.0; ///< the mean over the step's labelled tokens, before the update
  double extra_loss = 0.0; ///< what hooks added to it
  double lr = 0.0;
  double grad_norm = 0.0; ///< before clipping
  int64_t tokens = 0; ///< of this step and all workers, without padding
  int64_t labelled_tokens = 0;
  double tokens_per_s = 0.0; ///< of this step
  int64_t peak_rss_mib = 0;
  std::optional<int64_t> peak_cuda_mib; ///< where the model is on a GPU
  std::optional<double> eval_loss; ///< where the step was followed by a validation
};

struct TrainingResult {
  int64_t steps = 0;
  bool interrupted = false; ///< ended by `Trainer::request_stop`
  bool stopped_early = false; ///< ended by `early_stopping_patience`
  std::optional<double> best_eval_loss;
  int64_t best_step = 0;
};

/// Trains every parameter of a model that requires gradients.
///
/// Data order and dropout follow from (seed, step) alone, so that a resumed run takes the same steps, bit for bit on a
/// CPU; to this end LibTorch's default generator is seeded before each batch (`TrainStep`). A step waits for a GPU
/// once, to read its loss and norm, when all of its work has been queued.
///
/// With several workers (`TrainerOptions::reducer`) each is a trainer of the same examples, options and hooks, on a
/// model of the same values. All of them validate, and stop together.
class Trainer {
 public:
  /// Throws `c10::ValueError` for options out of range, for examples without a label, for a model of which nothing is
  /// trained or whose adapters are merged, and for one in float16, whose gradients would underflow.
  Trainer(CausalLM model, std::vector<Example> examples, TrainerOptions options);
  ~Trainer();

  /// The parameters of the best validation are put back at the end of training. Throws `c10::ValueError` for examples
  /// without a label.
  void set_validation(std::vector<Example> examples);

  /// Called after each step.
  void set_callback(std::function<void(const StepMetrics&)> on_step);

  /// Writes the model's part of a checkpoint into a folder (`save_adapter`, `save_model`).
  void set_save(std::function<void(const std::filesystem::path&)> save);

  /// Called where a checkpoint cannot be written: true tries again. Without it `train` throws, and what was trained
  /// since the last checkpoint is lost.
  void set_save_error(std::function<bool(const FileError&)> try_again);

  /// What decides the run besides options, data and frozen weights, by name: how the adapter computes, say. A
  /// checkpoint keeps it all, and `restore` refuses one of another run.
  void set_fingerprint(const std::map<std::string, std::string>& entries);

  /// All that decides the run, by name, as a checkpoint keeps it: options, data, what `set_fingerprint` added and, with
  /// `output`, the frozen weights.
  const std::map<std::string, std::string>& fingerprint() const;

  /// Calls a hook at each step of the run. Throws `c10::ValueError` for a name that another has, and once the run was
  /// restored.
  void add_hook(std::shared_ptr<TrainingHook> hook);

  /// What is trained on.
  const std::vector<Example>& examples() const;

  /// What is trained, as the optimiser and the hooks see it.
  const ParameterTable& parameters() const;

  /// What makes the updates.
  const Optimizer& optimizer() const;

  /// Optimiser steps of the whole run.
  int64_t total_steps() const;

  /// Optimiser steps that were taken so far, those before a resumed run with them.
  int64_t step() const;

  /// The step that a resumed run goes on from, 0 for a new one: checkpoints are read here, ahead of `train` and after
  /// what is set above. Throws `FileError` or `FormatError` for a checkpoint that cannot be gone on from, naming what
  /// differs from the run that wrote it.
  int64_t restore();

  /// Trains to the end. Throws `NotFiniteError` for a loss that is not finite, before it harms the parameters: with
  /// `output`, a checkpoint of the step before is written first, and a resumed run may take another `lr`. Throws it too
  /// for a validation or trained values that are not finite, and `std::runtime_error` where none of the first ten steps
  /// has a gradient. Throws `FileError` for a checkpoint that cannot be written and where another process writes to
  /// `output`.
  TrainingResult train();

  /// Ends `train` after the present step, with a checkpoint; a validation is left off, to be made when resumed. May be
  /// called from a signal handler. The next `train` goes on from there.
  void request_stop() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace rora
