#include <rora/adapters/gated_adapter.h>

#include <rora/core/dropout.h>
#include <rora/core/low_rank_term.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>

namespace rora {

GatedAdapter::GatedAdapter(
    const std::string& gate_name, int64_t rank, int64_t in, int64_t out, const at::TensorOptions& like) {
  lora_A = register_parameter("lora_A", at::empty({rank, in}, like));
  gate = register_parameter(gate_name, at::empty({rank, 1}, like));
  lora_B = register_parameter("lora_B", at::empty({out, rank}, like));
}

at::TensorOptions GatedAdapter::options_beside(const ProjectionImpl& projection) {
  return at::TensorOptions().dtype(wide(projection.base().dtype())).device(projection.base().device());
}

bool GatedAdapter::low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) {
  if (gate.size(0) == 0) {
    return true; // of no rank: the frozen layer
  }
  term.a = gate * lora_A;
  term.b = lora_B;
  term.scale = scale();
  if (is_training() && dropout() > 0.0) {
    term.dropout = {dropout(), ops::draw_seed()};
  }
  return true;
}

bool GatedAdapter::can_merge() const {
  return true;
}

at::Tensor GatedAdapter::merged_weight(const ProjectionImpl& projection) const {
  at::NoGradGuard no_grad;
  const at::Tensor base = projection.base().dense();
  at::Tensor merged = base.to(lora_A.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  merged.addmm_(lora_B, gate * lora_A, /*beta=*/1, /*alpha=*/scale());
  return merged.to(base.scalar_type());
}

bool GatedAdapter::changes_output() const {
  return gate.any().logical_and(lora_B.any()).item<bool>();
}

std::optional<std::string> GatedAdapter::why_not_captured() const {
  return dropout() > 0.0 ? std::optional<std::string>("dropout draws new seeds on the host for each batch")
                         : std::nullopt;
}

AdapterMemory GatedAdapter::memory(const ProjectionImpl& projection, bool output_kept) const {
  return {/*input=*/true, gate.size(0), 0};
}

ParameterRole GatedAdapter::role(const std::string& parameter) const {
  return parameter == "lora_A" ? ParameterRole::kA : parameter == "lora_B" ? ParameterRole::kB : ParameterRole::kOther;
}

} // namespace rora
