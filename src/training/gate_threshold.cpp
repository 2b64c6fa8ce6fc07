#include <rora/training/gate_threshold.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <set>

namespace rora {

GateThreshold::GateThreshold(const SoraOptions& options) : options_(options) {
  options_.validate();
}

std::string GateThreshold::name() const {
  return "sora";
}

void GateThreshold::begin(const StepContext& context) {
  std::set<const at::TensorImpl*> gates;
  for (const auto& module : context.model->modules(/*include_self=*/false)) {
    if (const auto* adapter = module->as<SoraAdapter>()) {
      gates.insert(adapter->gate.unsafeGetTensorImpl());
    }
  }
  gates_.clear();
  const auto& entries = context.parameters.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    if (gates.count(entries[i].tensor.unsafeGetTensorImpl()) > 0) {
      gates_.push_back(i);
    }
  }
  TORCH_CHECK_VALUE(!gates_.empty(), "no adapter of SoRA is trained, whose gates could become 0");
}

at::Tensor GateThreshold::extra_loss(const StepContext& context) {
  if (options_.gate_loss_weight() == 0.0) {
    return {};
  }
  std::vector<at::Tensor> gates;
  for (const size_t each : gates_) {
    gates.push_back(context.parameters.entries()[each].tensor.view({-1}));
  }
  return options_.gate_loss_weight() * at::cat(gates).abs().mean();
}

void GateThreshold::after_step(const StepContext& context) {
  for (const size_t each : gates_) {
    at::Tensor gate = ParameterTable::slice(context.parameters.entries()[each], context.parameters.values());
    gate.copy_(at::softshrink(gate, options_.threshold()));
  }
}

std::map<std::string, double> GateThreshold::fingerprint() const {
  return {{"gate_loss_weight", options_.gate_loss_weight()}, {"threshold", options_.threshold()}};
}

} // namespace rora
