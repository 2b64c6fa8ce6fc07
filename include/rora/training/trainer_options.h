#pragma once

#include <rora/data/batch.h>
#include <rora/training/adamw.h>
#include <rora/training/learning_rate.h>
#include <rora/training/optimizer.h>
#include <rora/training/parameter_table.h>
#include <rora/training/reducer.h>

#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <memory>

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
  /// Batches of each worker whose gradients make one step, each token counting alike whatever batch it is in.
  TORCH_ARG(int64_t, grad_accum) = 1;
  /// Where gradients are clipped by their norm; 0 is off.
  TORCH_ARG(double, clip) = 1.0;
  TORCH_ARG(AdamWOptions, adamw);
  /// Makes another optimiser than AdamW, whose options then say nothing; null: AdamW.
  TORCH_ARG(OptimizerFactory, optimizer);
  /// Learning-rate factor and decay of each parameter, `lora_plus` for one; null: all alike.
  TORCH_ARG(GroupOf, groups);
  /// Joins this trainer with those of other workers; null: there are none. The worker of rank 0 writes the checkpoints,
  /// which all of them read.
  TORCH_ARG(std::shared_ptr<Reducer>, reducer);
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
  /// Forward and backward by CUDA graphs where shapes repeat (`StepGraphs`); `Trainer::train` throws `c10::ValueError`
  /// where `why_not_captured` gives a reason.
  TORCH_ARG(bool, cuda_graph) = false;

 public:
  /// The most epochs whose steps are counted ahead where rows are packed anew for each.
  static constexpr int64_t kMaxPackedEpochs = 1000;

  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

} // namespace rora
