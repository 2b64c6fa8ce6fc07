#include <rora/adapters/initializers/gora.h>

#include "../attachment.h"

#include <rora/core/dora_norm.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>
#include <rora/core/rora_linear_options.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace rora {
namespace {

/// Keeps A·Aᵀ from being singular.
constexpr double kDamping = 1e-8;

// Of `WeightStatistics::condensed`:
constexpr const char* kImportance = "importance"; // a scalar in fp64
constexpr const char* kA = "a"; // `[max_rank, in]`, of which a module of rank r takes the first r rows
constexpr const char* kGradientOfA = "gradient_at"; // G·Aᵀ `[out, max_rank]`

double cost_of_rank(const RankCandidate& candidate) {
  return std::sqrt(static_cast<double>(candidate.in_features + candidate.out_features));
}

class GoRA final : public Initializer {
 public:
  explicit GoRA(const GoRAOptions& options) : options_(options) {}

  std::string name() const override {
    return "gora";
  }
  bool needs_gradient() const override {
    return true;
  }

  void condense(const ProjectionImpl& projection, int64_t rank, WeightStatistics& statistics) const override {
    const at::Tensor gradient = statistics.gradient;
    const at::Tensor weight = projection.original_weight().to(gradient.options());
    statistics.condensed[kImportance] = (weight * gradient).abs().mean(at::kDouble);
    const int64_t most = std::min({max_rank(rank), projection.in_features(), projection.out_features()});
    at::Tensor a = at::empty({most, projection.in_features()}, gradient.options());
    at::Tensor unused = at::empty({0}, gradient.options());
    kaiming_uniform()->initialize(projection, {}, {a, unused, 1.0});
    statistics.condensed[kA] = a;
    statistics.condensed[kGradientOfA] = gradient.mm(a.t());
    statistics.gradient.reset();
  }

  std::vector<ChosenRank> choose_ranks(
      const std::vector<RankCandidate>& candidates, const LowRankOptions& asked) const override {
    double sum = 0.0;
    double costs = 0.0;
    for (const RankCandidate& each : candidates) {
      sum += importance(each);
      costs += cost_of_rank(each);
    }
    TORCH_CHECK_VALUE(sum > 0.0, "gora: no weight has any importance: every gradient is 0");
    const int64_t least = min_rank(asked.rank()), most = max_rank(asked.rank());
    TORCH_CHECK_VALUE(
        least <= asked.rank() && asked.rank() <= most, "gora: the budget is that of rank ", asked.rank(),
        " for every module, which min_rank ", least, " and max_rank ", most, " cannot meet");
    const double budget = costs * static_cast<double>(asked.rank());
    std::vector<ChosenRank> chosen;
    for (const RankCandidate& each : candidates) {
      const double share = budget * importance(each) / sum / cost_of_rank(each);
      const double bounded = std::clamp(std::round(share), static_cast<double>(least), static_cast<double>(most));
      const int64_t fits = std::min(each.in_features, each.out_features);
      chosen.push_back({std::min(static_cast<int64_t>(bounded), fits), asked.alpha()});
    }
    return chosen;
  }

  void initialize(
      const ProjectionImpl& projection, const WeightStatistics& statistics, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    const int64_t rank = factors.a.size(0);
    const int64_t most = statistics.condensed.at(kA).size(0);
    TORCH_CHECK_VALUE(rank <= most, "gora: rank ", rank, " is over max_rank, which is ", most);
    const at::Tensor a = statistics.condensed.at(kA).narrow(0, 0, rank);
    const at::Tensor wide = a.to(at::kDouble);
    const at::Tensor gradient = statistics.condensed.at(kGradientOfA).narrow(1, 0, rank).to(at::kDouble);
    const at::Tensor gram = wide.mm(wide.t()) + kDamping * at::eye(rank, wide.options());
    const double step =
        options_.gamma() * std::sqrt(static_cast<double>(projection.in_features()) / static_cast<double>(rank));
    factors.a.copy_(a);
    factors.b.copy_(at::linalg_solve(gram, gradient.t()).t() * (-step / factors.scale));
  }

 private:
  int64_t min_rank(int64_t asked) const {
    return options_.min_rank() > 0 ? options_.min_rank() : std::max<int64_t>(1, asked / 2);
  }
  int64_t max_rank(int64_t asked) const {
    return options_.max_rank() > 0 ? options_.max_rank() : 4 * asked;
  }
  static double importance(const RankCandidate& candidate) {
    return candidate.statistics->condensed.at(kImportance).item<double>();
  }

  GoRAOptions options_;
};

/// A fresh adapter whose B is scaled.
class ScaledStart {
 public:
  ScaledStart(std::shared_ptr<ProjectionImpl> projection, std::shared_ptr<LowRankAdapter> adapter)
      : projection_(std::move(projection)), adapter_(std::move(adapter)), b_(adapter_->lora_B.detach().clone()) {}

  void scale(double factor) const {
    adapter_->lora_B.copy_(b_ * factor);
    if (adapter_->options.dora()) {
      const auto base = projection_->original_base();
      adapter_->lora_magnitude_vector.copy_(
          ops::dora_norm(*base, ops::row_norm_squared(*base), adapter_->lora_A, adapter_->lora_B, adapter_->scale()));
    }
  }

 private:
  std::shared_ptr<ProjectionImpl> projection_;
  std::shared_ptr<LowRankAdapter> adapter_;
  at::Tensor b_;
};

} // namespace

void GoRAOptions::validate() const {
  TORCH_CHECK_VALUE(min_rank_ >= 0, "min_rank must not be negative: ", min_rank_);
  TORCH_CHECK_VALUE(
      max_rank_ == 0 || max_rank_ >= min_rank_, "max_rank must be at least min_rank, ", min_rank_, ": ", max_rank_);
  TORCH_CHECK_VALUE(std::isfinite(gamma_) && gamma_ >= 0.0, "gamma must be at least 0: ", gamma_);
}

std::shared_ptr<const Initializer> gora(const GoRAOptions& options) {
  options.validate();
  return std::make_shared<GoRA>(options);
}

GoRAGamma choose_gora_gamma(
    torch::nn::Module& model, double made_with, const std::function<double()>& loss, const std::string& name) {
  constexpr double kFactor = 0.8;
  constexpr int kCandidates = 52; // down to 1e-5
  TORCH_CHECK_VALUE(made_with > 0.0, "a start of gamma ", made_with, " says nothing of others");
  at::NoGradGuard no_grad;
  std::vector<ScaledStart> starts;
  for (const auto& [module, projection] : detail::projections_with(model, name)) {
    if (auto adapter = std::dynamic_pointer_cast<LowRankAdapter>(projection->adapter(name))) {
      starts.emplace_back(projection, std::move(adapter));
    }
  }
  TORCH_CHECK_VALUE(!starts.empty(), "no adapter named '", name, "' is a low-rank one");
  const auto loss_at = [&](double gamma) {
    for (const ScaledStart& each : starts) {
      each.scale(gamma / made_with);
    }
    return loss();
  };
  GoRAGamma best;
  best.loss = best.loss_before = loss_at(0.0);
  double gamma = 1.0;
  for (int i = 0; i < kCandidates; ++i, gamma *= kFactor) {
    if (const double found = loss_at(gamma); found < best.loss) {
      best.gamma = gamma;
      best.loss = found;
    }
  }
  for (const ScaledStart& each : starts) {
    each.scale(best.gamma / made_with);
  }
  return best;
}

} // namespace rora
