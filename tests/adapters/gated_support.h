#pragma once

#include "support/gradcheck.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/gated_adapter.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace rora::testing {

/// Expects W·x + scale·B·diag(g)·A·x + bias and its gradients, in fp64, of an `AdapterOf` of rank 4 with those options.
template <class AdapterOf, class Options>
void expect_the_formula_of_gates(const Options& options, double scale) {
  at::manual_seed(3);
  Projection projection(5, 7, /*bias=*/true);
  projection->reset_parameters();
  projection->to(at::kDouble);
  const auto adapter = std::make_shared<AdapterOf>(*projection, options);
  projection->attach(kDefaultAdapter, adapter);
  const auto run = [&](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
    adapter->lora_A = inputs[1];
    adapter->gate = inputs[2];
    adapter->lora_B = inputs[3];
    return {projection->forward(inputs[0])};
  };
  const std::vector<at::Tensor> inputs{
      at::randn({2, 3, 5}, at::kDouble), at::randn({4, 5}, at::kDouble), at::randn({4, 1}, at::kDouble),
      at::randn({7, 4}, at::kDouble)};
  const at::Tensor change = scale * at::mm(inputs[3] * inputs[2].t(), inputs[1]);
  const at::Tensor expected = at::linear(inputs[0], projection->weight + change, projection->bias);
  EXPECT_LT(relative_error(run(inputs)[0], expected), 1e-13);
  EXPECT_LT(gradient_error(run, inputs), 1e-7);
}

} // namespace rora::testing
