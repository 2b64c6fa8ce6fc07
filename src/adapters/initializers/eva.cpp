#include <rora/adapters/initializers/eva.h>

#include "singular_triples.h"

#include <rora/core/projection.h>
#include <rora/core/rora_linear_options.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace rora {
namespace {

// Of `WeightStatistics::condensed`, from the direction of the largest variance on:
constexpr const char* kDirections = "directions"; // `[round(ρ·r), in]`
constexpr const char* kShares = "explained_variance_ratio"; // `[round(ρ·r)]` in fp64

/// Shares below are what rounding makes of directions in which nothing varies.
constexpr double kLeastShare = 1e-10;

/// A direction of a module's inputs.
struct Direction {
  double share;
  size_t module;
};

/// α that gives rank `chosen` the scale of the rank and α that were asked for.
double alpha_of(int64_t chosen, const LowRankOptions& asked) {
  const double ratio = static_cast<double>(chosen) / static_cast<double>(asked.rank());
  return asked.alpha() * (asked.scaling() == Scaling::kStandard ? ratio : std::sqrt(ratio));
}

class EVA final : public Initializer {
 public:
  explicit EVA(double rho) : rho_(rho) {}

  std::string name() const override {
    return "eva";
  }
  bool needs_input_moment() const override {
    return true;
  }

  void condense(const ProjectionImpl& projection, int64_t rank, WeightStatistics& statistics) const override {
    const at::Tensor mean = statistics.input_mean.to(at::kDouble);
    const at::Tensor covariance = statistics.input_moment.to(at::kDouble) - mean.outer(mean);
    const auto [values, vectors] = at::linalg_eigh(covariance);
    const double total = covariance.diagonal().sum().item<double>();
    TORCH_CHECK_VALUE(total > 0.0, "eva: the weight's inputs do not vary over the tokens that were captured");
    const int64_t varying = values.gt(kLeastShare * total).sum().item<int64_t>();
    const int64_t kept = std::min(static_cast<int64_t>(std::llround(rho_ * static_cast<double>(rank))), varying);
    at::Tensor directions = vectors.narrow(1, mean.size(0) - kept, kept).t().flip(0);
    directions = (directions * detail::signs_of_rows(directions)).to(at::kFloat).contiguous();
    statistics.condensed = {
        {kDirections, directions},
        {kShares, values.narrow(0, mean.size(0) - kept, kept).flip(0).clamp_min(0.0).div(total).contiguous()}};
    statistics.input_mean.reset();
    statistics.input_moment.reset();
  }

  std::vector<ChosenRank> choose_ranks(
      const std::vector<RankCandidate>& candidates, const LowRankOptions& asked) const override {
    std::vector<Direction> directions;
    for (size_t module = 0; module < candidates.size(); ++module) {
      const at::Tensor shares = candidates[module].statistics->condensed.at(kShares).cpu();
      for (int64_t i = 0; i < shares.size(0); ++i) {
        directions.push_back({shares[i].item<double>(), module});
      }
    }
    // Stable: among equals a module's first directions stay ahead of its later ones.
    std::stable_sort(
        directions.begin(), directions.end(), [](const Direction& a, const Direction& b) { return a.share > b.share; });
    std::vector<ChosenRank> chosen(candidates.size());
    const size_t budget = candidates.size() * static_cast<size_t>(asked.rank());
    TORCH_CHECK_VALUE(
        directions.size() >= budget, "eva: the inputs vary in ", directions.size(), " directions, and rank ",
        asked.rank(), " for every module asks for ", budget, ": capture more tokens or ask for a lower rank");
    for (size_t i = 0; i < budget; ++i) {
      ++chosen[directions[i].module].rank;
    }
    for (ChosenRank& each : chosen) {
      each.alpha = alpha_of(each.rank, asked);
    }
    return chosen;
  }

  void initialize(
      const ProjectionImpl& /*projection*/, const WeightStatistics& statistics, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    const at::Tensor& directions = statistics.condensed.at(kDirections);
    const int64_t rank = factors.a.size(0);
    TORCH_CHECK_VALUE(
        rank <= directions.size(0), "eva: rank ", rank, " is over the ", directions.size(0),
        " directions of the weight's inputs that are there");
    factors.a.copy_(directions.narrow(0, 0, rank));
    factors.b.zero_();
  }

 private:
  double rho_;
};

} // namespace

std::shared_ptr<const Initializer> eva(double rho) {
  TORCH_CHECK_VALUE(std::isfinite(rho) && rho >= 1.0, "rho must be at least 1: ", rho);
  return std::make_shared<EVA>(rho);
}

} // namespace rora
