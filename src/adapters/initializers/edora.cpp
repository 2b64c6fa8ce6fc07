#include <rora/adapters/initializers/edora.h>

#include "singular_triples.h"

#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

namespace rora {
namespace {

constexpr int64_t kIterations = 10;
constexpr double kDeviation = 1e-5;

class EDoRA final : public Initializer {
 public:
  std::string name() const override {
    return "edora";
  }

  void initialize(
      const ProjectionImpl& projection, const WeightStatistics& /*statistics*/, InitialFactors factors) const override {
    TORCH_CHECK_VALUE(factors.r.defined(), "edora is a start of adapters with a core");
    at::NoGradGuard no_grad;
    const int64_t rank = factors.a.size(0);
    const at::Tensor weight = projection.original_weight();
    detail::check_singular_values(rank, weight.sizes(), "edora");
    const auto [u, s, v] = detail::first_singular_triples(weight, rank, kIterations);
    factors.a.copy_(s.unsqueeze(1) * v);
    factors.b.copy_(u);
    // The same numbers on every device.
    factors.r.copy_(at::empty({rank, rank}, factors.r.options().device(at::kCPU)).normal_(0.0, kDeviation));
  }
};

} // namespace

std::shared_ptr<const Initializer> edora() {
  return std::make_shared<EDoRA>();
}

} // namespace rora
