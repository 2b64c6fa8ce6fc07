#pragma once

#include <rora/core/rora_linear.h>

#include <ostream>

namespace rora {
namespace detail {

inline const RoRALinearOptions& validated(const RoRALinearOptions& options) {
  options.validate();
  return options;
}

/// `linear`, once the options have been found to be in range.
inline const torch::nn::Linear& checked_linear(const torch::nn::Linear& linear, const LowRankOptions& low_rank) {
  low_rank.validate();
  return linear;
}

} // namespace detail

RORA_INLINE RoRALinearImpl::RoRALinearImpl(const RoRALinearOptions& options)
    : ProjectionImpl(detail::validated(options).in_features(), options.out_features(), options.bias()),
      options(options) {
  ProjectionImpl::reset_parameters();
  attach_low_rank();
}

RORA_INLINE RoRALinearImpl::RoRALinearImpl(int64_t in_features, int64_t out_features)
    : RoRALinearImpl(RoRALinearOptions(in_features, out_features)) {}

RORA_INLINE RoRALinearImpl::RoRALinearImpl(const torch::nn::Linear& linear, const LowRankOptions& low_rank)
    : ProjectionImpl(detail::checked_linear(linear, low_rank)->weight, linear->bias),
      options(RoRALinearOptions(linear->options.in_features(), linear->options.out_features())
                  .bias(linear->bias.defined())
                  .low_rank(low_rank)) {
  attach_low_rank();
}

RORA_INLINE void RoRALinearImpl::reset_parameters() {
  ProjectionImpl::reset_parameters();
  if (const auto adapter = low_rank()) {
    adapter->reset_parameters(*this);
    activate(active_name()); // it may rewrite the weight anew
  }
}

RORA_INLINE std::shared_ptr<torch::nn::Module> RoRALinearImpl::clone(const std::optional<at::Device>& device) const {
  auto copy = std::make_shared<RoRALinearImpl>(*this);
  static_cast<ProjectionImpl&>(*copy) = *std::static_pointer_cast<ProjectionImpl>(ProjectionImpl::clone(device));
  return copy;
}

RORA_INLINE std::shared_ptr<LowRankAdapter> RoRALinearImpl::low_rank() const {
  return std::dynamic_pointer_cast<LowRankAdapter>(adapter(kAdapterName));
}

RORA_INLINE std::vector<at::Tensor> RoRALinearImpl::adapter_parameters() const {
  const auto found = low_rank();
  return found ? found->parameters() : std::vector<at::Tensor>();
}

RORA_INLINE void RoRALinearImpl::pretty_print(std::ostream& stream) const {
  const auto adapter = low_rank();
  const LowRankOptions& shown = adapter ? adapter->options : options.low_rank();
  stream << "rora::RoRALinear(in_features=" << in_features() << ", out_features=" << out_features()
         << ", bias=" << std::boolalpha << bias.defined() << ", rank=" << shown.rank() << ", alpha=" << shown.alpha()
         << ")";
}

RORA_INLINE void RoRALinearImpl::attach_low_rank() {
  options.low_rank().validate();
  if (options.low_rank().rank() > 0) {
    attach(kAdapterName, std::make_shared<LowRankAdapter>(*this, options.low_rank()));
  }
}

} // namespace rora
