#include "rank_choice.h"

#include <c10/util/Exception.h>

namespace rora::detail {
namespace {

/// The options with each module's own rank and alpha.
AdapterOptions with_ranks(
    const std::vector<Attachment>& plan, const std::vector<ChosenRank>& chosen, AdapterOptions options) {
  ModulePattern<int64_t> ranks;
  ModulePattern<double> alphas;
  std::vector<std::string> adapted;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (chosen[i].rank == 0) {
      continue;
    }
    const std::string& module = plan[i].module;
    adapted.push_back(module);
    if (chosen[i].rank != options.low_rank().rank()) {
      ranks.emplace_back("^" + module, chosen[i].rank);
    }
    if (chosen[i].alpha != options.low_rank().alpha()) {
      alphas.emplace_back("^" + module, chosen[i].alpha);
    }
  }
  TORCH_CHECK_VALUE(!adapted.empty(), "the initializer chose rank 0 for every module");
  options.rank_pattern(ranks).alpha_pattern(alphas);
  if (adapted.size() < plan.size()) {
    options.target_modules(adapted).exclude_modules({});
  }
  return options;
}

} // namespace

AdapterOptions choose_ranks(
    std::vector<Attachment>& plan, const AdapterOptions& options, std::map<std::string, WeightStatistics>& statistics) {
  const auto initializer = options.kind() ? nullptr : options.low_rank().initializer();
  if (!initializer) {
    return options;
  }
  std::vector<RankCandidate> candidates;
  for (const Attachment& each : plan) {
    WeightStatistics& own = statistics[each.module];
    try {
      if (own.condensed.empty()) {
        initializer->condense(*each.projection, options.for_module(each.module).rank(), own);
      }
    } catch (const c10::ValueError& error) {
      TORCH_CHECK_VALUE(false, each.module, ": ", error.what_without_backtrace());
    }
    candidates.push_back({each.module, each.projection->in_features(), each.projection->out_features(), &own});
  }
  const std::vector<ChosenRank> chosen = initializer->choose_ranks(candidates, options.low_rank());
  if (chosen.empty()) {
    return options;
  }
  TORCH_CHECK_VALUE(
      chosen.size() == plan.size(), "the initializer '", initializer->name(), "' chose ", chosen.size(), " ranks for ",
      plan.size(), " modules");
  TORCH_CHECK_VALUE(
      options.rank_pattern().empty() && options.alpha_pattern().empty(), "the initializer '", initializer->name(),
      "' chooses ranks and alphas: rank_pattern and alpha_pattern must be empty");
  const AdapterOptions with = with_ranks(plan, chosen, options);
  for (size_t i = plan.size(); i-- > 0;) {
    if (chosen[i].rank == 0) {
      plan.erase(plan.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  return with;
}

} // namespace rora::detail
