#pragma once

#include "demo/comparison.h"

#include <rora/adapters/adapter_options.h>
#include <rora/data/dataset.h>
#include <rora/model/causal_lm.h>
#include <rora/text/tokenizer.h>

#include <functional>

namespace rora::demo {

/// The share of `records` whose whole answer the model gives, decoding greedily.
Accuracy measure_accuracy(CausalLM model, const Tokenizer& tokenizer, const std::vector<Record>& records);

/// What `method` means at `rank`.
LowRankOptions low_rank_options(Method method, int64_t rank, double alpha);

/// What the runs work on. The model is left as it was.
struct FineTuningTask {
  CausalLM model{nullptr};
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<Record> facts;
  std::vector<Example> examples; ///< the facts, tokenised
};

/// Attaches a fresh adapter, trains it, measures it and detaches it. The same seed gives the same batches to every
/// method and rank. `on_step` is called after each step.
Run fine_tune(
    FineTuningTask& task, Method method, int64_t rank, const ComparisonOptions& options,
    const std::function<void(int64_t step, double loss)>& on_step);

} // namespace rora::demo
