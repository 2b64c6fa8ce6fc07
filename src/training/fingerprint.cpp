#include "fingerprint.h"

#include "../checkpoint/digest.h"

#include <rora/training/run_digest.h>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string_view>

namespace rora::detail {
namespace {

/// The shortest text that reads back the same.
std::string number(double value) {
  return nlohmann::json(value).dump();
}

/// Which parameters learn at which rate; nothing where all learn alike.
std::optional<std::string> groups_fingerprint(const ParameterTable& parameters) {
  if (parameters.groups().size() == 1 && parameters.groups()[0].group == ParameterGroup()) {
    return std::nullopt;
  }
  std::string text;
  Digest members;
  for (const ParameterEntry& entry : parameters.entries()) {
    members.add(entry.name);
    members.add(entry.group);
  }
  for (const ParameterRange& range : parameters.groups()) {
    const auto& decay = range.group.weight_decay;
    text += std::to_string(range.size) + " numbers at lr x " + number(range.group.lr_factor) +
        (decay ? " with decay " + number(*decay) : std::string()) + ", ";
  }
  return text + "of digest " + members.text();
}

} // namespace

RunFingerprint run_fingerprint(
    const TrainerOptions& options, int64_t total_steps, const CausalLM& model, const ParameterTable& parameters,
    const Optimizer& optimizer) {
  const BatchOptions& batches = options.batches();
  RunFingerprint run{
      {"batch_size", std::to_string(batches.batch_size())},
      {"clip", number(options.clip())},
      {"dtype", c10::toString(model->dtype())},
      {"early_stopping_patience", std::to_string(options.early_stopping_patience())},
      {"eval_every", std::to_string(options.eval_every())},
      {"grad_accum", std::to_string(options.grad_accum())},
      {"layout", "rows of one length together"}, // of the saved values and moments
      {"lr", number(options.lr())},
      {"max_length", std::to_string(batches.max_length())},
      {"packing", batches.packing() ? "on" : "off"},
      {"schedule", schedule_name(options.schedule())},
      {"seed", std::to_string(batches.seed())},
      {"shuffle", batches.shuffle() ? "on" : "off"},
      {"total_steps", std::to_string(total_steps)},
      {"warmup_steps", std::to_string(options.warmup_steps())}};
  if (!options.output().empty()) {
    run["weights"] = weights_digest(model); // the whole model is read: not where nothing will be compared
  }
  if (model->dtype() == at::kBFloat16 && model->device().is_cpu()) {
    run["threads"] = std::to_string(at::get_num_threads()); // LibTorch's products in bfloat16 round by thread
  }
  for (const auto& [option, value] : optimizer.fingerprint()) {
    run[option] = number(value);
  }
  // What is as ever is not said, so that checkpoints of earlier releases are gone on from.
  if (optimizer.name() != "AdamW") {
    run["optimizer"] = optimizer.name();
  }
  if (const auto groups = groups_fingerprint(parameters)) {
    run["groups"] = *groups;
  }
  if (options.reducer() != nullptr && options.reducer()->world_size() > 1) {
    run["workers"] = std::to_string(options.reducer()->world_size());
  }
  return run;
}

RunFingerprint hook_fingerprint(const TrainingHook& hook) {
  const std::string prefix = "hook." + hook.name();
  RunFingerprint entries{{prefix, "on"}};
  for (const auto& [option, value] : hook.fingerprint()) {
    entries[prefix + "." + option] = number(value);
  }
  return entries;
}

} // namespace rora::detail
