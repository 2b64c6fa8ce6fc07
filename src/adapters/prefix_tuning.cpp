#include <rora/adapters/prefix_tuning.h>

#include "kinds/prefix_tuning.h"

#include <rora/model/decoder_layer.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <ostream>

namespace rora {

void PrefixTuningOptions::validate() const {
  TORCH_CHECK_VALUE(num_virtual_tokens_ >= 1, "num_virtual_tokens must be at least 1: ", num_virtual_tokens_);
  TORCH_CHECK_VALUE(
      std::isfinite(initial_std_) && initial_std_ >= 0.0, "initial_std must be a number of at least 0: ", initial_std_);
}

PrefixAdapter::PrefixAdapter(const AttentionImpl& attention, const PrefixTuningOptions& options) {
  options.validate();
  const ops::LinearWeight& base = attention.k_proj->base();
  const auto dtype = base.dtype() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t head_dim = attention.head_dim();
  const int64_t kv_heads = attention.k_proj->out_features() / head_dim;
  // Drawn on the CPU whatever the device: a seed gives the same prefix everywhere.
  at::Tensor drawn = at::empty({options.num_virtual_tokens(), 2, kv_heads, head_dim}, dtype);
  if (options.initial_std() > 0.0) {
    drawn.normal_(0.0, options.initial_std());
  } else {
    drawn.zero_();
  }
  key_value_prefix = register_parameter("key_value_prefix", drawn.to(base.device()));
}

std::pair<at::Tensor, at::Tensor> PrefixAdapter::prefix(const AttentionImpl& attention) {
  return {key_value_prefix.select(1, 0), key_value_prefix.select(1, 1)};
}

int64_t PrefixAdapter::prefix_length() const {
  return key_value_prefix.size(0);
}

bool PrefixAdapter::takes_positions() const {
  return true;
}

std::optional<std::string> PrefixAdapter::why_not_captured() const {
  return std::nullopt;
}

void PrefixAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::PrefixAdapter(num_virtual_tokens=" << prefix_length() << ")";
}

std::shared_ptr<const AdapterKind> prefix_tuning(const PrefixTuningOptions& options) {
  return std::make_shared<detail::PrefixTuningKind>(options);
}

} // namespace rora
