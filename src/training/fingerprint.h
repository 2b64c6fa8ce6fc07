#pragma once

#include <rora/training/hooks.h>
#include <rora/training/optimizer.h>
#include <rora/training/parameter_table.h>
#include <rora/training/trainer_options.h>

#include <map>
#include <string>
#include <vector>

namespace rora::detail {

/// What a resumed run must repeat for its steps and its result to be the same, by the names of its options.
using RunFingerprint = std::map<std::string, std::string>;

/// Every option that shapes the steps or their result, and the model's dtype and weights. Taken before training.
RunFingerprint run_fingerprint(
    const TrainerOptions& options, int64_t total_steps, const CausalLM& model, const ParameterTable& parameters,
    const Optimizer& optimizer);

/// That a hook is there, and what it says of itself.
RunFingerprint hook_fingerprint(const TrainingHook& hook);

} // namespace rora::detail
