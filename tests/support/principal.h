#pragma once

#include <rora/core/initializer.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>

#include <string>

namespace rora::testing {

/// The largest singular values of W go into B·A, and the rest takes W's place: PiSSA (arXiv 2404.02948).
class Principal : public Initializer {
 public:
  std::string name() const override {
    return "pissa";
  }
  bool rewrites_base() const override {
    return true;
  }
  void initialize(const ProjectionImpl& projection, const WeightStatistics&, InitialFactors factors) const override {
    const auto [u, s, v] = at::linalg_svd(projection.base().dense().to(at::kFloat), /*full_matrices=*/false);
    const int64_t rank = factors.a.size(0);
    const at::Tensor root = (s.narrow(0, 0, rank) / factors.scale).sqrt();
    factors.a.copy_(root.unsqueeze(1) * v.narrow(0, 0, rank));
    factors.b.copy_(u.narrow(1, 0, rank) * root);
  }
};

} // namespace rora::testing
