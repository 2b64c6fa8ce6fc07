#pragma once

#include "flags.h"

#include <rora/training/optimizer.h>

#include <string>
#include <vector>

namespace rora::cli {

/// A way to make updates, by the name that --optimizer takes.
struct NamedOptimizer {
  const char* name;
  const char* about; ///< a line, with its paper
  /// Null: the trainer's own AdamW.
  OptimizerFactory (*make)(double weight_decay);
  bool reads_raw_gradients = false; ///< nothing is clipped before it, unless --clip is given
  bool freezes_a = false; ///< `freeze_a` comes before the trainer
};

/// AdamW first.
const std::vector<NamedOptimizer>& optimizers();

/// Throws `UsageError`, which lists the names, for one that there is not.
const NamedOptimizer& find_optimizer(const std::string& name);

/// The values of --optimizer, with what they are.
std::vector<Described> optimizer_choices();

} // namespace rora::cli
