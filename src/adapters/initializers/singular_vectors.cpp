#include <rora/adapters/initializers/singular_vectors.h>

#include "singular_triples.h"

#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

namespace rora {
namespace {

enum class End { kFirst, kLast };

class SingularVectors final : public Initializer {
 public:
  SingularVectors(End end, int64_t iterations) : end_(end), iterations_(iterations) {}

  std::string name() const override {
    return end_ == End::kFirst ? "pissa" : "milora";
  }
  bool rewrites_base() const override {
    return true;
  }

  void initialize(
      const ProjectionImpl& projection, const WeightStatistics& /*statistics*/, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    const int64_t rank = factors.a.size(0);
    const at::Tensor weight = projection.original_weight();
    detail::check_singular_values(rank, weight.sizes(), name());
    const auto [u, s, v] = end_ == End::kFirst ? detail::first_singular_triples(weight, rank, iterations_)
                                               : detail::last_singular_triples(weight, rank);
    const at::Tensor root = (s / factors.scale).sqrt();
    factors.a.copy_(root.unsqueeze(1) * v);
    factors.b.copy_(u * root);
  }

 private:
  End end_;
  int64_t iterations_;
};

} // namespace

std::shared_ptr<const Initializer> pissa(int64_t iterations) {
  TORCH_CHECK_VALUE(iterations >= 0, "iterations must not be negative: ", iterations);
  return std::make_shared<SingularVectors>(End::kFirst, iterations);
}

std::shared_ptr<const Initializer> milora() {
  return std::make_shared<SingularVectors>(End::kLast, 0);
}

} // namespace rora
