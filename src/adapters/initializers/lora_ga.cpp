#include <rora/adapters/initializers/lora_ga.h>

#include "singular_triples.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace rora {
namespace {

class LoRAGA final : public Initializer {
 public:
  explicit LoRAGA(const LoRAGAOptions& options) : options_(options) {}

  std::string name() const override {
    return "lora_ga";
  }
  bool needs_gradient() const override {
    return true;
  }
  bool rewrites_base() const override {
    return true;
  }

  void condense(const ProjectionImpl& /*projection*/, int64_t rank, WeightStatistics& statistics) const override {
    detail::check_singular_values(2 * rank, statistics.gradient.sizes(), "lora-ga");
    const auto [u, s, v] = detail::first_singular_triples(statistics.gradient, 2 * rank, detail::kGradientIterations);
    statistics.condensed = {
        {"u", u.narrow(1, rank, rank).contiguous()},
        {"s", s.narrow(0, rank, rank).contiguous()},
        {"v", v.narrow(0, 0, rank).contiguous()}};
    statistics.gradient.reset();
  }

  void initialize(
      const ProjectionImpl& /*projection*/, const WeightStatistics& statistics, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    const at::Tensor& u = statistics.condensed.at("u");
    const double c = std::pow(static_cast<double>(u.size(0)), 0.25) / std::sqrt(options_.gamma());
    if (options_.form() == LoRAGAForm::kPaper) {
      factors.a.copy_(statistics.condensed.at("v") * c);
      factors.b.copy_(u * c);
    } else {
      factors.a.copy_(statistics.condensed.at("v"));
      factors.b.copy_(u * statistics.condensed.at("s") * c);
    }
  }

 private:
  LoRAGAOptions options_;
};

} // namespace

void LoRAGAOptions::validate() const {
  TORCH_CHECK_VALUE(std::isfinite(gamma_) && gamma_ > 0.0, "gamma must be above 0: ", gamma_);
}

std::shared_ptr<const Initializer> lora_ga(const LoRAGAOptions& options) {
  options.validate();
  return std::make_shared<LoRAGA>(options);
}

} // namespace rora
