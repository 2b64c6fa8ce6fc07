#include "unpaired_adamw.h"

#include "fused_adamw.h"

#include <ATen/ATen.h>

namespace rora::detail {

UnpairedAdamW::UnpairedAdamW(const ParameterTable& parameters, const AdamWOptions& options) : options_(options) {
  int64_t kept = 0;
  for (const ParameterEntry& entry : parameters.entries()) {
    if (entry.pair) {
      continue;
    }
    if (runs_.empty() || runs_.back().group != entry.group || runs_.back().begin + runs_.back().size != entry.begin) {
      runs_.push_back({entry.group, entry.begin, 0, kept});
    }
    runs_.back().size += entry.size;
    kept += entry.size;
  }
  exp_avg_ = at::zeros({kept}, parameters.values().options());
  exp_avg_sq_ = at::zeros_like(exp_avg_);
}

void UnpairedAdamW::update(ParameterTable& parameters, int64_t steps, double learning_rate) const {
  const at::Tensor& gradients = parameters.gradients();
  for (const Run& run : runs_) {
    const ParameterGroup& group = parameters.groups()[run.group].group;
    AdamWOptions options = options_;
    options.weight_decay(group.weight_decay.value_or(options_.weight_decay()));
    fused_adamw(
        {parameters.values().narrow(0, run.begin, run.size), gradients.narrow(0, run.begin, run.size),
         exp_avg_.narrow(0, run.kept, run.size), exp_avg_sq_.narrow(0, run.kept, run.size)},
        steps, learning_rate * group.lr_factor, options, /*left_out=*/{});
  }
}

void UnpairedAdamW::add_state(std::vector<std::pair<std::string, at::Tensor>>& state) const {
  if (!runs_.empty()) {
    state.emplace_back("exp_avg", exp_avg_);
    state.emplace_back("exp_avg_sq", exp_avg_sq_);
  }
}

} // namespace rora::detail
