#pragma once

#include <rora/training/trainer.h>

#include <map>
#include <string>
#include <vector>

namespace rora::detail {

/// What a resumed run must repeat for its steps and its result to be the same, by the names of its options.
using RunFingerprint = std::map<std::string, std::string>;

/// Every option that shapes the steps or their result, and the model's dtype and weights. Taken before training.
RunFingerprint run_fingerprint(const TrainerOptions& options, int64_t total_steps, const CausalLM& model);

/// How many examples there are, and a digest of all their ids and labels.
std::string examples_fingerprint(const std::vector<Example>& examples);

}  // namespace rora::detail
