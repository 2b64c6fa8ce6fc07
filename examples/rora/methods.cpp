#include "methods.h"

#include "flags.h"

#include <rora/adapters/bottleneck.h>
#include <rora/adapters/prefix_tuning.h>

#include <algorithm>

namespace rora::cli {
namespace {

template <Scaling scaling, bool dora>
AdapterOptions low_rank(const MethodSettings& settings) {
  return AdapterOptions()
      .low_rank(LowRankOptions()
                    .rank(settings.rank)
                    .alpha(settings.alpha)
                    .scaling(scaling)
                    .dora(dora)
                    .dropout(settings.dropout)
                    .dora_dropout(settings.dora_dropout))
      .target_modules(settings.target_modules);
}

/// Those of the MLP's projections that are meant, where a series can stand. Throws `UsageError` where none is.
ModuleSelection places_of_series(const ModuleSelection& targets) {
  const std::vector<std::string> places{"gate_proj", "up_proj", "down_proj"};
  if (targets.all_linear) {
    return places;
  }
  ModuleSelection meant;
  for (const std::string& name : targets.names) {
    const std::string last = name.substr(name.find_last_of('.') + 1);
    if (std::find(places.begin(), places.end(), last) != places.end()) {
      meant.names.push_back(name);
    }
  }
  if (meant.empty()) {
    throw UsageError("series stands at gate_proj, up_proj and down_proj, of which --target-modules names none");
  }
  return meant;
}

template <BottleneckForm form>
AdapterOptions bottlenecks(const MethodSettings& settings) {
  return AdapterOptions()
      .kind(bottleneck(BottleneckOptions().form(form).width(settings.rank).dropout(settings.dropout)))
      .target_modules(
          form == BottleneckForm::kSeries ? places_of_series(settings.target_modules) : settings.target_modules);
}

AdapterOptions prefixes(const MethodSettings& settings) {
  return AdapterOptions().kind(prefix_tuning(PrefixTuningOptions().num_virtual_tokens(settings.rank)));
}

} // namespace

const std::vector<Method>& methods() {
  static const std::vector<Method> all{
      {.name = "lora", .title = "LoRA", .options = low_rank<Scaling::kStandard, false>},
      {.name = "rora", .title = "RoRA", .options = low_rank<Scaling::kRankStabilized, false>},
      {.name = "dora", .title = "DoRA", .options = low_rank<Scaling::kStandard, true>},
      {.name = "dora-rora", .title = "DoRA, α/√r", .options = low_rank<Scaling::kRankStabilized, true>},
      {.name = "full", .title = "full", .has_rank = false, .has_alpha = false},
      {.name = "series",
       .title = "Series",
       .has_alpha = false,
       .is_mergeable = false,
       .options = bottlenecks<BottleneckForm::kSeries>},
      {.name = "parallel",
       .title = "Parallel",
       .has_alpha = false,
       .is_mergeable = false,
       .options = bottlenecks<BottleneckForm::kParallel>},
      {.name = "prefix", .title = "Prefix", .has_alpha = false, .is_mergeable = false, .options = prefixes}};
  return all;
}

const Method& find_method(const std::string& flag, const std::string& name) {
  const auto found =
      std::find_if(methods().begin(), methods().end(), [&](const Method& method) { return method.name == name; });
  if (found == methods().end()) {
    throw UsageError("--" + flag + ": there is no '" + name + "'; there are " + method_names());
  }
  return *found;
}

std::string method_names() {
  std::string names;
  for (const Method& method : methods()) {
    names += (names.empty() ? "" : ", ") + method.name;
  }
  return names;
}

} // namespace rora::cli
