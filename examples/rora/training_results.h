#pragma once

#include "flags.h"

#include <rora/model/causal_lm.h>
#include <rora/training/trainer.h>

#include <cstdint>
#include <optional>

namespace rora::cli {

/// A line of metrics.jsonl.
Json metrics_line(const StepMetrics& metrics);

/// Sums over the steps that this process took.
struct Totals {
  int64_t tokens = 0;
  int64_t labelled_tokens = 0;
  std::optional<double> first_loss;
  double final_loss = 0.0;

  void add(const StepMetrics& metrics);
};

/// What run.json says of a run that has ended: `restored` is the step that it was gone on from.
Json results_json(
    const CausalLM& model, const TrainingResult& result, const Totals& totals, int64_t restored, double seconds);

} // namespace rora::cli
