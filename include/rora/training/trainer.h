#pragma once

#include <rora/data/batch.h>
#include <rora/data/dataset.h>
#include <rora/model/causal_lm.h>
#include <rora/training/adamw.h>
#include <rora/training/learning_rate.h>
#include <rora/training/step_graphs.h>

#include <c10/core/Device.h>
#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora {

/// The options of a `Trainer`.
struct TrainerOptions {
  /// The learning rate after warm-up.
  TORCH_ARG(double, lr) = 2e-4;
  TORCH_ARG(Schedule, schedule) = Schedule::kLinear;
  TORCH_ARG(int64_t, warmup_steps) = 0;
  /// How often the data is gone through, unless `max_steps` says otherwise.
  TORCH_ARG(int64_t, epochs) = 3;
  /// Optimiser steps; the data repeats as needed. 0: by `epochs`.
  TORCH_ARG(int64_t, max_steps) = 0;
  /// Batches whose gradients make one step, each token counting alike whatever batch it is in.
  TORCH_ARG(int64_t, grad_accum) = 1;
  /// Where gradients are clipped by their norm; 0 is off.
  TORCH_ARG(double, clip) = 1.0;
  TORCH_ARG(AdamWOptions, adamw);
  /// Batch size, packing, order; its seed also decides dropout.
  TORCH_ARG(BatchOptions, batches);
  /// Steps between validations; 0: at the end of each epoch.
  TORCH_ARG(int64_t, eval_every) = 0;
  /// Validations without a better loss after which training ends; 0 is never.
  TORCH_ARG(int64_t, early_stopping_patience) = 0;
  /// Steps between checkpoints; 0: none but on a stop that was asked for.
  TORCH_ARG(int64_t, save_every) = 0;
  /// Where checkpoints go, as `checkpoint-STEP`; empty is nowhere.
  TORCH_ARG(std::filesystem::path, output);
  /// Go on from the last whole checkpoint in `output`, if there is one.
  TORCH_ARG(bool, resume) = false;
  /// Forward and backward by CUDA graphs where shapes repeat (`StepGraphs`); `Trainer::train` throws
  /// `std::invalid_argument` where `why_not_captured` gives a reason.
  TORCH_ARG(bool, cuda_graph) = false;

 public:
  /// Throws `std::invalid_argument` naming the option that is out of range.
  void validate() const;
};

/// What a step did.
struct StepMetrics {
  int64_t step = 0; ///< from 1
  int64_t total_steps = 0;
  int64_t epoch = 0; ///< from 0
  double loss = 0.0; ///< the mean over the step's labelled tokens, before the update
  double lr = 0.0;
  double grad_norm = 0.0; ///< before clipping
  int64_t tokens = 0; ///< of this step, without padding
  int64_t labelled_tokens = 0;
  double tokens_per_s = 0.0; ///< of this step
  int64_t peak_rss_mib = 0;
  std::optional<int64_t> peak_cuda_mib; ///< where the model is on a GPU
  std::optional<double> eval_loss; ///< where the step was followed by a validation
};

/// The most memory that this process has had, in MiB.
int64_t peak_rss_mib();

/// The most memory of a GPU that this process's tensors have had at once, in MiB; nothing for a device that is none.
std::optional<int64_t> peak_cuda_mib(const at::Device& device);

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
/// CPU; to this end LibTorch's default generator is seeded before each batch. A step waits for a GPU once, to read its
/// loss and norm, when all of its work has been queued.
class Trainer {
 public:
  /// Throws `std::invalid_argument` for options out of range, for a model of which nothing is trained, and for one in
  /// float16, whose gradients would underflow.
  Trainer(CausalLM model, std::vector<Example> examples, TrainerOptions options);
  ~Trainer();

  /// The parameters of the best validation are put back at the end of training.
  void set_validation(std::vector<Example> examples);

  /// Called after each step.
  void set_callback(std::function<void(const StepMetrics&)> on_step);

  /// Writes the model's part of a checkpoint into a folder (`save_adapter`, `save_model`).
  void set_save(std::function<void(const std::filesystem::path&)> save);

  /// What decides the run besides options, data and frozen weights, by name: how the adapter computes, say. A
  /// checkpoint keeps it all, and `restore` refuses one of another run.
  void set_fingerprint(const std::map<std::string, std::string>& entries);

  /// Optimiser steps of the whole run.
  int64_t total_steps() const;

  /// The step that a resumed run goes on from, 0 for a new one: checkpoints are read here, ahead of `train` and after
  /// what is set above. Throws `FileError` or `FormatError` for a checkpoint that cannot be gone on from, naming what
  /// differs from the run that wrote it.
  int64_t restore();

  /// Trains to the end. Throws `std::runtime_error` for a loss that is not finite, before it harms the parameters.
  TrainingResult train();

  /// Ends `train` after the present step, with a checkpoint. May be called from a signal handler.
  void request_stop() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The mean loss over all labelled tokens of `examples`, in batches of like length, in evaluation mode and without
/// gradients. Throws `std::invalid_argument` for a batch size below 1 and where there is no labelled token.
double mean_loss(CausalLM model, const std::vector<Example>& examples, int64_t batch_size);

} // namespace rora
