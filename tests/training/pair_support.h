#pragma once

#include <rora/core/low_rank_adapter.h>
#include <rora/training/optimizer.h>
#include <rora/training/parameter_table.h>

#include <ATen/ATen.h>
#include <torch/nn/modules/container/modulelist.h>

#include <memory>
#include <vector>

// One pair of factors, in fp64, for the tests of optimisers on pairs.
namespace rora::testing {

inline constexpr int64_t kIn = 7;
inline constexpr int64_t kOut = 5;

inline at::Tensor random(at::IntArrayRef sizes, uint64_t seed) {
  at::manual_seed(seed);
  return at::randn(sizes, at::kDouble);
}

/// A projection with an adapter of given factors at the scale 2/√r, and the table of these.
struct OnePair {
  OnePair(const at::Tensor& a, const at::Tensor& b, bool trains_a = true, const GroupOf& groups = nullptr)
      : projection(random({b.size(0), a.size(1)}, 1)) {
    adapter = std::make_shared<LowRankAdapter>(*projection, LowRankOptions().rank(a.size(0)).alpha(2));
    {
      at::NoGradGuard no_grad;
      adapter->lora_A.copy_(a);
      adapter->lora_B.copy_(b);
    }
    projection->attach("default", adapter);
    adapter->lora_A.set_requires_grad(trains_a);
    parameters = std::make_unique<ParameterTable>(*torch::nn::ModuleList(projection), groups);
  }

  at::Tensor a() const {
    return adapter->lora_A.detach().clone();
  }
  at::Tensor b() const {
    return adapter->lora_B.detach().clone();
  }
  /// s·B·A.
  at::Tensor delta() const {
    return b().mm(a()) * adapter->scale();
  }
  /// Those of a loss with the weight's gradient `g` `[out, in]`: s·BᵀG and s·GAᵀ.
  void set_gradients(const at::Tensor& g) {
    const at::Tensor gradients = parameters->gradients();
    for (const ParameterEntry& entry : parameters->entries()) {
      const at::Tensor own = entry.role == ParameterRole::kA ? b().t().mm(g) : g.mm(a().t());
      ParameterTable::slice(entry, gradients).copy_(own * adapter->scale());
    }
  }

  Projection projection;
  std::shared_ptr<LowRankAdapter> adapter;
  std::unique_ptr<ParameterTable> parameters;
};

/// The weight's gradient of a quadratic loss of ΔW, whose lowest point is no low-rank one.
inline at::Tensor quadratic_gradient(const at::Tensor& delta) {
  const at::Tensor curvature = random({delta.size(1), delta.size(1)}, 2);
  return (delta - random(delta.sizes(), 3)).mm(curvature.mm(curvature.t())) / 100.0;
}

/// ΔW after each of some steps down that loss, one behind the other.
template <class MakeOptimizer>
at::Tensor trajectory(OnePair& pair, const MakeOptimizer& make, int steps, double learning_rate) {
  const std::unique_ptr<Optimizer> optimizer = make(*pair.parameters);
  std::vector<at::Tensor> deltas;
  for (int step = 0; step < steps; ++step) {
    pair.set_gradients(quadratic_gradient(pair.delta()));
    optimizer->step(learning_rate);
    deltas.push_back(pair.delta());
  }
  return at::stack(deltas);
}

} // namespace rora::testing
