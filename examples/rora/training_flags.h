#pragma once

#include "flags.h"
#include "model_flags.h"
#include "prompt_flags.h"

#include <rora/data/dataset.h>
#include <rora/training/trainer.h>

#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// --checkpointing.
Flag add_checkpointing(Flags& flags, Checkpointing& value);

/// The flags of whatever trains: data, output, optimiser, schedule.
struct TrainingFlags {
  std::vector<std::string> data;
  std::vector<std::string> data_weights;
  std::vector<std::string> eval_data;
  std::string output;
  double lr = 2e-4;
  Schedule schedule = Schedule::kLinear;
  int64_t warmup_steps = 0;
  int64_t epochs = 3;
  std::optional<int64_t> max_steps;
  int64_t batch_size = 8;
  int64_t grad_accum = 1;
  int64_t max_length = 512;
  double weight_decay = 0.0;
  double lr_ratio_b = 1.0;
  std::string optimizer = "adamw"; ///< one of `optimizers`
  double clip = 1.0;
  int64_t seed = 42;
  int64_t save_every = 500; // as in transformers
  int64_t eval_every = 0;
  int64_t early_stopping_patience = 0;
  bool resume = false;
  bool packing = false;
  bool train_on_inputs = false;
  bool shuffle = true;
  Checkpointing checkpointing = Checkpointing::kNone;
  bool activation_checkpointing = false; ///< the older name of its `full`
  bool cuda_graph = false;
  bool dry_run = false;
  PromptFlags prompts;

  void add_data(Flags& flags, bool eval_is_required = false);
  /// --lr, and all that says how it is trained.
  void add(Flags& flags);
  void add_without_lr(Flags& flags);
  /// What goes with adapters alone: --lr-ratio-b and --train-on-inputs.
  void add_fine_tuning(Flags& flags);

  /// --optimizer.
  void add_optimizer(Flags& flags);
  /// Brings the model, whose adapters are attached, into the form that the optimiser takes, and --clip to 0 where it
  /// reads raw gradients and none was given.
  void prepare_optimizer(const torch::nn::Module& model, bool clip_given);

  /// Throws `UsageError` for flags that would have no effect.
  void check() const;

  /// The same for those that reach none of what is trained, by `method` where several are compared.
  void check_reach(const ParameterTable& parameters, const std::string& method = {}) const;

  /// What the two flags of checkpointing say together.
  Checkpointing settled_checkpointing() const {
    return activation_checkpointing ? Checkpointing::kFull : checkpointing;
  }

  TrainerOptions trainer_options() const;
  DatasetOptions dataset_options(int64_t vocab_size, const Prompts& settled) const;

  /// The files of --data, each read once: it may be a pipe.
  std::vector<RecordFile> read_data() const;
};

} // namespace rora::cli
