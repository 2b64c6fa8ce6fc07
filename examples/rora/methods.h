#pragma once

#include "flags.h"
#include "method_flags.h"

#include <rora/adapters/adapter_options.h>
#include <rora/training/hooks.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rora::cli {

/// What the methods of one comparison have in common.
struct MethodSettings {
  int64_t rank = 16; ///< a bottleneck's width, a prefix's virtual tokens, the mean of AdaLoRA's ranks at the end
  double alpha = 16.0;
  double dropout = 0.0;
  ops::DoraDropout dora_dropout = ops::DoraDropout::kInput;
  ModuleSelection target_modules = kDefaultTargetModules;
  MethodFlags own = {}; ///< of single methods
};

/// A way to fine-tune a model.
struct Method {
  std::string name; ///< the value of a flag: "dora-rora"
  std::string title; ///< in a report: "DoRA, α/√r"
  std::string about = {}; ///< a line for `--method help`, of those that are no combination of flags
  bool has_rank = true;
  bool has_alpha = true;
  bool is_mergeable = true;
  const char* init = "default"; ///< of `StartFlags`
  const char* optimizer = "adamw"; ///< of `optimizers`
  double lr_ratio_b = 1.0; ///< how many times as fast B learns; 1: as --lr-ratio-b says
  /// What is attached; null: nothing, as the weights themselves are trained.
  AdapterOptions (*options)(const MethodSettings& settings) = nullptr;
  /// What it does at a step besides; null: nothing.
  std::shared_ptr<TrainingHook> (*hook)(const MethodSettings& settings) = nullptr;
};

/// In the order of reports.
const std::vector<Method>& methods();

/// Throws `UsageError`, which lists the names, for one that there is not.
const Method& find_method(const std::string& flag, const std::string& name);

/// "lora, rora, …".
std::string method_names();

/// The kinds of adapters, with what they are: the values of finetune's --method.
const std::vector<Described>& adapter_methods();

} // namespace rora::cli
