#include "support/gradcheck.h"
#include "support/test_data.h"

#include <rora/checkpoint/safetensors.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/training/adamw.h>
#include <rora/training/parameter_table.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

/// Two layers with DoRA adapters and trained biases, as in the trace.
struct LayersImpl : torch::nn::Module {
  LayersImpl() {
    add("first", 6, 5);
    add("second", 5, 4);
  }

  void add(const std::string& name, int64_t in, int64_t out) {
    Projection projection(at::randn({out, in}), at::randn({out}));
    projection->bias.set_requires_grad(true);
    projection->attach(
        "default", std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(3).alpha(6).dora(true)));
    register_module(name, projection);
  }
};
TORCH_MODULE(Layers);

/// The name of a parameter in the trace: without the adapter's.
std::string name_in_trace(std::string name) {
  if (const size_t adapter = name.find(".default"); adapter != std::string::npos) {
    name.erase(adapter, std::string(".default").size());
  }
  return name;
}

TEST(LoraPlus, FollowsTheTraceOfPeftsOptimiser) {
  const SafetensorsFile trace(testing::test_data("lora_plus/trace.safetensors"));
  Layers model;
  ParameterTable parameters(*model, lora_plus(16.0));
  AdamW optimizer(parameters, AdamWOptions().beta1(0.8).beta2(0.95).eps(1e-6).weight_decay(0.1));
  ASSERT_EQ(parameters.entries().size(), 8u);
  for (const ParameterEntry& each : parameters.entries()) {
    ParameterTable::slice(each, parameters.values()).copy_(trace.tensor("initial." + name_in_trace(each.name)));
  }
  const int64_t steps = trace.shape("values.first.lora_A")[0];
  for (int64_t step = 0; step < steps; ++step) {
    parameters.zero_grad();
    for (const ParameterEntry& each : parameters.entries()) {
      ParameterTable::slice(each, parameters.gradients())
          .copy_(trace.tensor("gradients." + name_in_trace(each.name))[step]);
    }
    optimizer.step(1e-2);
    for (const ParameterEntry& each : parameters.entries()) {
      const at::Tensor expected = trace.tensor("values." + name_in_trace(each.name))[step];
      EXPECT_LT(testing::relative_error(each.tensor.detach(), expected), 1e-6) << each.name << " at step " << step;
    }
  }
}

TEST(LoraPlus, DividesTheParametersAsPeftDoes) {
  Layers model;
  const ParameterTable parameters(*model, lora_plus(4.0));
  for (const ParameterEntry& each : parameters.entries()) {
    const ParameterGroup& group = parameters.groups()[each.group].group;
    const bool bias = each.name.ends_with("bias");
    EXPECT_EQ(group.lr_factor, each.role == ParameterRole::kA ? 1.0 : 4.0) << each.name;
    EXPECT_EQ(group.weight_decay, bias ? std::optional<double>(0.0) : std::nullopt) << each.name;
  }
}

TEST(LoraPlus, RefusesARatioThatIsNone) {
  EXPECT_THROW(lora_plus(0.0), c10::ValueError);
  EXPECT_THROW(lora_plus(-1.0), c10::ValueError);
  EXPECT_THROW(lora_plus(std::numeric_limits<double>::infinity()), c10::ValueError);
}

} // namespace
} // namespace rora
