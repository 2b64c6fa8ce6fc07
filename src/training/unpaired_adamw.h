#pragma once

#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rora::detail {

/// AdamW of the entries that are no factor of a pair, for an optimiser of the pairs: DoRA's magnitudes, rows and whole
/// weights. It keeps moments of those alone.
class UnpairedAdamW {
 public:
  UnpairedAdamW(const ParameterTable& parameters, const AdamWOptions& options);

  /// Update number `steps`, from 1, from the table's gradients.
  void update(ParameterTable& parameters, int64_t steps, double learning_rate) const;

  /// Adds the moments, where there are any.
  void add_state(std::vector<std::pair<std::string, at::Tensor>>& state) const;

 private:
  /// Entries of one group side by side.
  struct Run {
    size_t group = 0;
    int64_t begin = 0; ///< in the table's buffers
    int64_t size = 0;
    int64_t kept = 0; ///< where its moments begin
  };

  AdamWOptions options_;
  std::vector<Run> runs_;
  at::Tensor exp_avg_;
  at::Tensor exp_avg_sq_;
};

} // namespace rora::detail
