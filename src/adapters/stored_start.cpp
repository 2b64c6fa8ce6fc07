#include <rora/adapters/weight_statistics.h>

#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <utility>

namespace rora {
namespace {

// Of `WeightStatistics::condensed`:
constexpr const char* kA = "lora_A"; // `[rank, in]`
constexpr const char* kB = "lora_B"; // `[out, rank]`
constexpr const char* kR = "lora_R"; // `[rank, rank]`, of an adapter with a core
constexpr const char* kAlpha = "alpha"; // a scalar in fp64

class StoredStart final : public Initializer {
 public:
  explicit StoredStart(std::shared_ptr<const Initializer> initializer) : initializer_(std::move(initializer)) {}

  std::string name() const override {
    return initializer_->name();
  }
  bool rewrites_base() const override {
    return initializer_->rewrites_base();
  }

  std::vector<ChosenRank> choose_ranks(
      const std::vector<RankCandidate>& candidates, const LowRankOptions& options) const override {
    std::vector<ChosenRank> chosen;
    for (const RankCandidate& each : candidates) {
      const auto& stored = each.statistics->condensed;
      const auto a = stored.find(kA);
      const auto b = stored.find(kB);
      const auto alpha = stored.find(kAlpha);
      TORCH_CHECK_VALUE(
          a != stored.end() && b != stored.end() && alpha != stored.end(), each.module, ": its start was not stored");
      const int64_t rank = a->second.dim() == 2 ? a->second.size(0) : 0;
      const std::vector<int64_t> a_shape{rank, each.in_features};
      const std::vector<int64_t> b_shape{each.out_features, rank};
      TORCH_CHECK_VALUE(
          a->second.sizes() == a_shape && b->second.sizes() == b_shape && alpha->second.numel() == 1, each.module,
          ": its stored start has sizes of another weight");
      const auto r = stored.find(kR);
      const std::vector<int64_t> r_shape{rank, rank};
      TORCH_CHECK_VALUE(
          rank == 0 || (options.core() ? r != stored.end() && r->second.sizes() == r_shape : r == stored.end()),
          each.module, ": its stored start is of an adapter ", options.core() ? "without a core" : "with a core");
      chosen.push_back({rank, alpha->second.item<double>()});
    }
    return chosen;
  }

  void initialize(
      const ProjectionImpl& /*projection*/, const WeightStatistics& statistics, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    factors.a.copy_(statistics.condensed.at(kA));
    factors.b.copy_(statistics.condensed.at(kB));
    if (factors.r.defined()) {
      factors.r.copy_(statistics.condensed.at(kR));
    }
  }

 private:
  std::shared_ptr<const Initializer> initializer_;
};

} // namespace

StatisticsByModule start_statistics(
    const torch::nn::Module& model, const std::vector<std::string>& modules, const std::string& name) {
  const auto all = model.named_modules("", /*include_self=*/false);
  StatisticsByModule statistics;
  for (const std::string& module : modules) {
    const auto* projection = all[module]->as<ProjectionImpl>();
    TORCH_CHECK_VALUE(projection != nullptr, module, " is no projection");
    const auto adapter = std::dynamic_pointer_cast<const LowRankAdapter>(projection->adapter(name));
    auto& own = statistics[module].condensed;
    if (adapter) {
      own = {
          {kA, adapter->lora_A.detach().cpu().clone()},
          {kB, adapter->lora_B.detach().cpu().clone()},
          {kAlpha, at::scalar_tensor(adapter->options.alpha(), at::kDouble)}};
      if (adapter->lora_R.defined()) {
        own.emplace(kR, adapter->lora_R.detach().cpu().clone());
      }
    } else {
      own = {
          {kA, at::empty({0, projection->in_features()})},
          {kB, at::empty({projection->out_features(), 0})},
          {kAlpha, at::scalar_tensor(0.0, at::kDouble)}};
    }
  }
  return statistics;
}

std::shared_ptr<const Initializer> stored_start(std::shared_ptr<const Initializer> initializer) {
  return std::make_shared<StoredStart>(std::move(initializer));
}

} // namespace rora
