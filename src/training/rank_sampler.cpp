#include <rora/training/rank_sampler.h>

#include <rora/core/low_rank_adapter.h>
#include <rora/core/philox.h>

#include <c10/util/Exception.h>

#include <algorithm>

namespace rora {

RankSampler::RankSampler(const RankSamplerOptions& options) : options_(options) {}

RankSampler::~RankSampler() {
  train_ranks(std::nullopt);
}

std::string RankSampler::name() const {
  return "dylora";
}

void RankSampler::begin(const StepContext& context) {
  TORCH_CHECK_VALUE(
      context.optimizer.name() == "AdamW", "DyLoRA trains by AdamW: ", context.optimizer.name(),
      " reads A and B whole, at the scale of all ranks");
  adapters_.clear();
  most_ = 0;
  for (const auto& module : context.model->modules(/*include_self=*/false)) {
    const auto adapter = std::dynamic_pointer_cast<LowRankAdapter>(module);
    const auto parameters = adapter != nullptr ? adapter->parameters() : std::vector<at::Tensor>();
    const bool trains =
        std::any_of(parameters.begin(), parameters.end(), [](const at::Tensor& each) { return each.requires_grad(); });
    if (trains) {
      adapters_.push_back(adapter);
      most_ = std::max(most_, adapter->options.rank());
    }
  }
  TORCH_CHECK_VALUE(!adapters_.empty(), "no low-rank adapter is trained, whose ranks could be drawn");
  train_ranks(most_); // what cannot be drawn is found before the first step
}

void RankSampler::before_forward(const StepContext& context) {
  const uint64_t random = ops::Philox::generate(context.seed, /*counter_low=*/0).word[0];
  train_ranks(1 + static_cast<int64_t>((random * static_cast<uint64_t>(most_)) >> 32));
}

void RankSampler::train_ranks(std::optional<int64_t> count) const {
  for (const auto& adapter : adapters_) {
    adapter->train_nested(
        count ? std::optional(std::min(*count, adapter->options.rank())) : std::nullopt, options_.last_only());
  }
}

std::map<std::string, double> RankSampler::fingerprint() const {
  return {{"last_only", options_.last_only() ? 1.0 : 0.0}};
}

} // namespace rora
