#include <rora/adapters/initializers/lora_sb.h>

#include "singular_triples.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace rora {
namespace {

class LoRASB final : public Initializer {
 public:
  explicit LoRASB(double step) : step_(step) {}

  std::string name() const override {
    return "lora_sb";
  }
  bool needs_gradient() const override {
    return true;
  }

  void condense(const ProjectionImpl& /*projection*/, int64_t rank, WeightStatistics& statistics) const override {
    detail::check_singular_values(rank, statistics.gradient.sizes(), "lora-sb");
    TORCH_CHECK_VALUE(statistics.gradient.any().item<bool>(), "lora-sb: the gradient is 0");
    const auto [u, s, v] =
        detail::first_singular_triples(-statistics.gradient.sign(), rank, detail::kGradientIterations);
    statistics.condensed = {{"u", u}, {"s", s}, {"v", v}};
    statistics.gradient.reset();
  }

  void initialize(
      const ProjectionImpl& /*projection*/, const WeightStatistics& statistics, InitialFactors factors) const override {
    TORCH_CHECK_VALUE(factors.r.defined(), "lora-sb is a start of adapters with a core");
    at::NoGradGuard no_grad;
    factors.a.copy_(statistics.condensed.at("v"));
    factors.b.copy_(statistics.condensed.at("u"));
    factors.r.copy_(at::diag(statistics.condensed.at("s") * (step_ / factors.scale)));
  }

 private:
  double step_;
};

} // namespace

std::shared_ptr<const Initializer> lora_sb(double step) {
  TORCH_CHECK_VALUE(std::isfinite(step) && step > 0.0, "step must be above 0: ", step);
  return std::make_shared<LoRASB>(step);
}

} // namespace rora
