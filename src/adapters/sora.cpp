#include <rora/adapters/sora.h>

#include "kinds/sora.h"

#include <rora/core/initializer.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace rora {
namespace {

const SoraOptions& validated(const SoraOptions& options) {
  options.validate();
  return options;
}

} // namespace

void SoraOptions::validate() const {
  TORCH_CHECK_VALUE(rank_ >= 1, "SoRA's rank must be at least 1: ", rank_);
  TORCH_CHECK_VALUE(std::isfinite(alpha_), "SoRA's alpha must be finite: ", alpha_);
  TORCH_CHECK_VALUE(dropout_ >= 0.0 && dropout_ < 1.0, "SoRA's dropout must be in [0, 1): ", dropout_);
  TORCH_CHECK_VALUE(
      std::isfinite(gate_loss_weight_) && gate_loss_weight_ >= 0.0,
      "SoRA's gate_loss_weight must be at least 0: ", gate_loss_weight_);
  TORCH_CHECK_VALUE(
      std::isfinite(threshold_) && threshold_ >= 0.0, "SoRA's threshold must be at least 0: ", threshold_);
}

SoraAdapter::SoraAdapter(const ProjectionImpl& projection, const SoraOptions& options)
    : SoraAdapter(validated(options), projection.in_features(), projection.out_features(), options_beside(projection)) {
  at::NoGradGuard no_grad;
  kaiming_uniform()->initialize(projection, {}, {lora_A, lora_B, scale()}); // B is 0
  gate.copy_(at::empty(gate.sizes(), gate.options().device(at::kCPU)).normal_()); // the same on every device
}

SoraAdapter::SoraAdapter(const SoraOptions& options, int64_t in, int64_t out, const at::TensorOptions& like)
    : GatedAdapter("gate", options.rank(), in, out, like), options(options) {}

double SoraAdapter::scale() const {
  return scaling_factor(options.scaling(), options.alpha(), options.rank());
}

double SoraAdapter::dropout() const {
  return options.dropout();
}

int64_t SoraAdapter::saved_rank() const {
  return std::max<int64_t>(1, gate.ne(0).sum().item<int64_t>());
}

std::vector<std::pair<std::string, at::Tensor>> SoraAdapter::saved_tensors() const {
  at::NoGradGuard no_grad;
  // Those that are not 0 in their order, and where there is none the first.
  const at::Tensor order = gate.view({-1}).eq(0).to(at::kInt).argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor kept = order.narrow(0, 0, saved_rank());
  return {
      {"lora_A", (gate * lora_A).index_select(0, kept)},
      {"lora_B", lora_B.detach().index_select(1, kept).contiguous()}};
}

std::shared_ptr<Adapter> SoraAdapter::empty_copy() const {
  return std::shared_ptr<Adapter>(
      new SoraAdapter(options, lora_A.size(1), lora_B.size(0), lora_A.options().requires_grad(false)));
}

void SoraAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::SoraAdapter(rank=" << options.rank() << ", alpha=" << options.alpha() << ", scale=" << scale()
         << ", dropout=" << options.dropout() << ")";
}

std::shared_ptr<const AdapterKind> sora(const SoraOptions& options) {
  return std::make_shared<detail::SoraKind>(options);
}

} // namespace rora
