#pragma once

#include "support/gradcheck.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/weight_statistics.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace rora::testing {

/// A projection whose weight has singular values from 3 on down, so that no two are alike.
inline Projection graded_projection(int64_t in = 12, int64_t out = 10, uint64_t seed = 3) {
  at::manual_seed(seed);
  const int64_t most = std::min(in, out);
  const at::Tensor u = std::get<0>(at::linalg_qr(at::randn({out, most})));
  const at::Tensor v = std::get<0>(at::linalg_qr(at::randn({in, most})));
  const at::Tensor s = 3.0 * at::pow(0.7, at::arange(most).to(at::kFloat));
  return Projection((u * s).mm(v.t()));
}

/// A gradient of its weight, of the same kind.
inline at::Tensor graded_gradient(int64_t in = 12, int64_t out = 10, uint64_t seed = 5) {
  return 0.01 * graded_projection(in, out, seed)->weight.detach();
}

inline std::shared_ptr<LowRankAdapter> begin(
    const Projection& projection, const LowRankOptions& options, const WeightStatistics& statistics = {}) {
  return std::make_shared<LowRankAdapter>(*projection, options, statistics);
}

/// s·B·A.
inline at::Tensor change_of(const LowRankAdapter& adapter) {
  return (adapter.scale() * adapter.lora_B.mm(adapter.lora_A)).detach();
}

/// Two rows of tokens that follow from the batch's number.
inline CaptureBatch counting_batch(int64_t batch) {
  const at::Tensor ids = (at::arange(16, at::kLong) * (batch + 3)).remainder(32).view({2, 8});
  at::Tensor labels = ids.clone();
  labels.slice(1, 0, 2).fill_(-100);
  return {{ids, {}, {}}, labels};
}

/// The mean loss over the first batches.
inline double loss_of_batches(CausalLM model, int64_t batches = 4) {
  at::NoGradGuard no_grad;
  double sum = 0.0;
  for (int64_t i = 0; i < batches; ++i) {
    const CaptureBatch batch = counting_batch(i);
    const LossSum loss = model->loss(batch.input, batch.labels);
    sum += loss.sum.item<double>() / static_cast<double>(loss.tokens);
  }
  return sum / static_cast<double>(batches);
}

inline AdapterOptions beginning_with(std::shared_ptr<const Initializer> initializer, int64_t rank = 4) {
  return AdapterOptions().low_rank(LowRankOptions().rank(rank).alpha(8).initializer(std::move(initializer)));
}

inline StatisticsByModule captured(CausalLM model, const AdapterOptions& options, int64_t memory = 0) {
  return capture_statistics(model, options, CaptureOptions().batches(4).memory(memory), counting_batch);
}

inline std::shared_ptr<LowRankAdapter> adapter_of(const CausalLM& model, const std::string& module) {
  const auto all = model->named_modules();
  return std::dynamic_pointer_cast<LowRankAdapter>(all[module]->as<ProjectionImpl>()->adapter(kDefaultAdapter));
}

} // namespace rora::testing
