#pragma once

#include <rora/model/causal_lm.h>
#include <rora/training/hooks.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace rora::theory {

/// What enters each of the named projections, token by token `[tokens, in]` in fp32 on the model's device.
using ProjectionInputs = std::map<std::string, at::Tensor>;

/// Those of `model` on `input` as its active adapters leave it, without the tokens that its mask calls padding.
/// Projections that share an input share a tensor. Throws `c10::ValueError` for a name that is no projection's.
ProjectionInputs capture_inputs(CausalLM model, const std::vector<std::string>& modules, const ModelInput& input);

/// How far the active adapter of a projection has moved it.
struct ProjectionGrowth {
  std::string module;
  double weight = 0.0; ///< ‖ΔW‖ = γ·‖B·A‖, of all pairs of the adapter together
  double output = 0.0; ///< the root over the tokens' mean of ‖ΔW·x‖²
};

/// Of each projection that has inputs, in their order. ‖B·A‖² is the trace of BᵀB·AAᵀ: no product of full size is made.
/// The inputs stay those that were captured, whatever the layers before do meanwhile, so that what is measured is this
/// projection's own change. Throws `c10::ValueError` where a projection has no active adapter with a pair.
std::vector<ProjectionGrowth> measure_growth(const torch::nn::Module& model, const ProjectionInputs& inputs);

/// Measures during a training, behind the chosen steps (from 1).
class GrowthHook : public TrainingHook {
 public:
  GrowthHook(ProjectionInputs inputs, std::set<int64_t> steps);

  std::string name() const override {
    return "growth";
  }
  void after_step(const StepContext& context) override;

  /// By step.
  const std::map<int64_t, std::vector<ProjectionGrowth>>& measured() const {
    return measured_;
  }

 private:
  ProjectionInputs inputs_;
  std::set<int64_t> steps_;
  std::map<int64_t, std::vector<ProjectionGrowth>> measured_;
};

/// ∂L/∂W `[out, in]` of each named projection, L the mean loss of the labelled tokens, in fp32 on the CPU: what the
/// first step from B = 0 follows from.
std::map<std::string, at::Tensor> loss_gradients(
    CausalLM model, const std::vector<std::string>& modules, const ModelInput& input, const at::Tensor& labels);

} // namespace rora::theory
