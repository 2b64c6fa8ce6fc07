#include <rora/adapters/initializers/lora_one.h>

#include "singular_triples.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace rora {
namespace {

class LoRAOne final : public Initializer {
 public:
  explicit LoRAOne(double gamma) : gamma_(gamma) {}

  std::string name() const override {
    return "lora_one";
  }
  bool needs_gradient() const override {
    return true;
  }

  void condense(const ProjectionImpl& /*projection*/, int64_t rank, WeightStatistics& statistics) const override {
    detail::check_singular_values(rank, statistics.gradient.sizes(), "lora-one");
    const auto [u, s, v] = detail::first_singular_triples(statistics.gradient, rank, detail::kGradientIterations);
    TORCH_CHECK_VALUE(s[0].item<double>() > 0.0, "lora-one: the gradient is 0");
    statistics.condensed = {{"u", u}, {"s", s}, {"v", v}};
    statistics.gradient.reset();
  }

  void initialize(
      const ProjectionImpl& /*projection*/, const WeightStatistics& statistics, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    const at::Tensor& s = statistics.condensed.at("s");
    const at::Tensor root = (s / (s[0] * gamma_)).sqrt();
    factors.a.copy_(root.unsqueeze(1) * statistics.condensed.at("v"));
    factors.b.copy_(-statistics.condensed.at("u") * root);
  }

 private:
  double gamma_;
};

} // namespace

std::shared_ptr<const Initializer> lora_one(double gamma) {
  TORCH_CHECK_VALUE(std::isfinite(gamma) && gamma > 0.0, "gamma must be above 0: ", gamma);
  return std::make_shared<LoRAOne>(gamma);
}

} // namespace rora
