#pragma once

#include "support/gradcheck.h"

#include <rora/checkpoint/safetensors.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/training/optimizer.h>

#include <gtest/gtest.h>

// The layers of the traces of PEFT's optimisers (tests/fixtures/optimizers), and how a trace is followed.
namespace rora::testing {

struct TracedLayersImpl : torch::nn::Module {
  explicit TracedLayersImpl(bool dora) {
    add("first", 6, 5, LowRankOptions().rank(3).alpha(6).scaling(Scaling::kStandard).dora(dora));
    add("second", 5, 4, LowRankOptions().rank(2).alpha(5).scaling(Scaling::kStandard).dora(dora));
  }

  void add(const std::string& name, int64_t in, int64_t out, const LowRankOptions& options) {
    Projection projection(at::randn({out, in}), at::randn({out}));
    projection->bias.set_requires_grad(true);
    projection->attach("default", std::make_shared<LowRankAdapter>(*projection, options));
    register_module(name, projection);
  }

  /// Its parameters by their names in the trace, without the adapter's.
  std::vector<std::pair<std::string, at::Tensor>> traced() const {
    std::vector<std::pair<std::string, at::Tensor>> all;
    for (const auto& item : named_parameters()) {
      std::string name = item.key();
      if (const size_t adapter = name.find(".default"); adapter != std::string::npos) {
        name.erase(adapter, std::string(".default").size());
      }
      if (!name.ends_with(".weight")) {
        all.emplace_back(name, item.value());
      }
    }
    return all;
  }

  void begin(const SafetensorsFile& trace) const {
    at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : traced()) {
      tensor.copy_(trace.tensor("initial." + name));
    }
  }
};
TORCH_MODULE(TracedLayers);

/// Takes the trace's steps with its gradients, and compares the values after each.
inline void follow_trace(
    const SafetensorsFile& trace, const TracedLayers& model, ParameterTable& parameters, Optimizer& optimizer) {
  const int64_t steps = trace.shape("values.first.lora_B")[0];
  for (int64_t step = 0; step < steps; ++step) {
    parameters.zero_grad();
    parameters.gradients();
    for (auto& [name, tensor] : model->traced()) {
      if (tensor.requires_grad()) {
        tensor.mutable_grad() = trace.tensor("gradients." + name)[step].clone();
      }
    }
    optimizer.step(1e-2);
    for (const auto& [name, tensor] : model->traced()) {
      const at::Tensor expected =
          tensor.requires_grad() ? trace.tensor("values." + name)[step] : trace.tensor("initial." + name);
      EXPECT_LT(relative_error(tensor.detach(), expected), 1e-6) << name << " at step " << step;
    }
  }
}

} // namespace rora::testing
