#include <rora/adapters/initializers/olora.h>

#include "singular_triples.h"

#include <rora/core/projection.h>

#include <ATen/ATen.h>

namespace rora {
namespace {

class OLoRA final : public Initializer {
 public:
  std::string name() const override {
    return "olora";
  }
  bool rewrites_base() const override {
    return true;
  }

  void initialize(
      const ProjectionImpl& projection, const WeightStatistics& /*statistics*/, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    const int64_t rank = factors.a.size(0);
    const at::Tensor weight = projection.original_weight().to(factors.a.scalar_type());
    detail::check_singular_values(rank, weight.sizes(), name());
    const at::Tensor q = std::get<0>(at::linalg_qr(weight.narrow(1, 0, rank)));
    factors.a.copy_(q.t().mm(weight));
    factors.b.copy_(q);
  }
};

} // namespace

std::shared_ptr<const Initializer> olora() {
  return std::make_shared<OLoRA>();
}

} // namespace rora
