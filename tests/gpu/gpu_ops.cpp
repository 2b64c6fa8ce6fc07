// For the benchmark alone: several projections of one input as rora's models compute them, as one node, where the
// operators that the library registers take one.

#include <rora/core/dora_norm.h>
#include <rora/core/low_rank_linear.h>

#include <torch/library.h>

#include <vector>

namespace {

/// Of `magnitudes` and ‖W‖² by row there are as many as weights, or none.
std::vector<at::Tensor> together(
    const at::Tensor& x, at::TensorList weights, at::TensorList a, at::TensorList b, double scale, double dropout,
    at::IntArrayRef seeds, at::TensorList magnitudes, at::TensorList weight_norms_squared) {
  TORCH_CHECK_VALUE(
      weights.size() == a.size() && weights.size() == b.size() && weights.size() == seeds.size() &&
          (magnitudes.empty() || magnitudes.size() == weights.size()) &&
          magnitudes.size() == weight_norms_squared.size(),
      weights.size(), " weights do not go with ", a.size(), " A, ", b.size(), " B, ", seeds.size(), " seeds, ",
      magnitudes.size(), " magnitudes and ", weight_norms_squared.size(), " norms");
  std::vector<rora::ops::LowRankTerm> terms(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    terms[i].weight = std::make_shared<rora::ops::DenseWeight>(weights[i]);
    terms[i].a = a[i];
    terms[i].b = b[i];
    terms[i].scale = scale;
    terms[i].dropout = {dropout, static_cast<uint64_t>(seeds[i])};
    if (!magnitudes.empty()) {
      terms[i].magnitude = magnitudes[i];
      terms[i].norm =
          rora::ops::dora_norm(*terms[i].weight, weight_norms_squared[i], a[i].detach(), b[i].detach(), scale);
    }
  }
  return rora::ops::low_rank_linear(x, std::move(terms));
}

TORCH_LIBRARY(rora_gpu, m) {
  m.def(
      "together(Tensor x, Tensor[] weights, Tensor[] a, Tensor[] b, float scale, float dropout, int[] seeds,"
      " Tensor[] magnitudes, Tensor[] weight_norms_squared) -> Tensor[]");
}
TORCH_LIBRARY_IMPL(rora_gpu, CompositeImplicitAutograd, m) {
  m.impl("together", together);
}

} // namespace
