#pragma once

#include <rora/data/record.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rora::demo {

/// LoRA: α/r. RoRA: α/√r. DoRA: α/r and a trained magnitude.
enum class Method { kLoRA, kRoRA, kDoRA };

inline const std::vector<Method> kMethods{Method::kLoRA, Method::kRoRA, Method::kDoRA};

std::string method_name(Method method);

/// What all runs of a comparison have in common.
struct ComparisonOptions {
  std::vector<int64_t> ranks{4, 32, 128};
  double alpha = 16.0;
  double lr = 3e-3;
  int64_t steps = 180;
  int64_t batch_size = 32;
  uint64_t seed = 1;
};

/// A share of right answers and its standard error √(p(1 − p)/count).
struct Accuracy {
  double share = 0.0;
  double standard_error = 0.0;
};

/// One fine-tuning.
struct Run {
  Method method = Method::kLoRA;
  int64_t rank = 0;
  int64_t trainable = 0;
  double trainable_share = 0.0; ///< in percent of all parameters, the adapter's included
  std::vector<double> losses; ///< a step's, before its update
  Accuracy accuracy;
  double seconds = 0.0; ///< of the training alone

  /// The mean of the last tenth of the losses.
  double final_loss() const;
};

/// All that the report tells.
struct Comparison {
  ComparisonOptions options;
  std::vector<Run> runs; ///< by rank, then by method
  Accuracy before; ///< of the model without an adapter
  int64_t model_parameters = 0;
  int64_t facts = 0; ///< how many are taught, and asked for afterwards
  double seconds = 0.0; ///< all in all
  Record example; ///< one of the facts
};

} // namespace rora::demo
