#pragma once

#include <rora/ops/low_rank_linear.h>

#include <torch/nn/module.h>

namespace rora {

class ProjectionImpl;

/// What a projection's slot holds: a small trained change of a frozen linear map.
class Adapter : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;

  /// The adapted projection of x `[..., in]`, bias and all: `[..., out]`.
  virtual at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) = 0;

  /// Fills in the adapter's part of `term` and returns true where `forward` is a `low_rank_linear`: projections that read
  /// one input then run together. Others run one by one.
  virtual bool low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) {
    return false;
  }

  /// The weight `[out, in]` that alone does what projection and adapter do together, rounded once to the base's dtype.
  /// Throws `std::logic_error` for an adapter that no weight can express.
  virtual at::Tensor merged_weight(const ProjectionImpl& projection) const = 0;
};

} // namespace rora
