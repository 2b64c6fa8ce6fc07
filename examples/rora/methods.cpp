#include "methods.h"

#include "flags.h"

#include <rora/adapters/adalora.h>
#include <rora/adapters/bottleneck.h>
#include <rora/adapters/prefix_tuning.h>
#include <rora/adapters/sora.h>
#include <rora/training/gate_threshold.h>
#include <rora/training/rank_allocator.h>
#include <rora/training/rank_sampler.h>

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

/// Throws `UsageError` for fewer ranks at the beginning than at the end.
AdaLoraOptions adalora_options(const MethodSettings& settings) {
  const int64_t asked = settings.own.adalora_init_r;
  if (asked > 0 && asked < settings.rank) {
    throw UsageError(
        "--adalora-init-r " + std::to_string(asked) + " is below --rank " + std::to_string(settings.rank) +
        ", to which AdaLoRA takes ranks down");
  }
  return AdaLoraOptions(settings.own.adalora)
      .init_r(asked > 0 ? asked : (3 * settings.rank + 1) / 2)
      .target_r(settings.rank)
      .alpha(settings.alpha)
      .dropout(settings.dropout);
}

AdapterOptions with_ranks_to_give(const MethodSettings& settings) {
  return AdapterOptions().kind(adalora(adalora_options(settings))).target_modules(settings.target_modules);
}

std::shared_ptr<TrainingHook> rank_allocator(const MethodSettings& settings) {
  return std::make_shared<RankAllocator>(adalora_options(settings));
}

SoraOptions sora_options(const MethodSettings& settings) {
  return SoraOptions(settings.own.sora).rank(settings.rank).alpha(settings.alpha).dropout(settings.dropout);
}

AdapterOptions with_gates(const MethodSettings& settings) {
  return AdapterOptions().kind(sora(sora_options(settings))).target_modules(settings.target_modules);
}

std::shared_ptr<TrainingHook> gate_threshold(const MethodSettings& settings) {
  return std::make_shared<GateThreshold>(sora_options(settings));
}

std::shared_ptr<TrainingHook> rank_sampler(const MethodSettings& settings) {
  return std::make_shared<RankSampler>(RankSamplerOptions().last_only(!settings.own.dylora_train_all));
}

/// A square R is trained. LoRA-SB's authors have s = 1.
AdapterOptions lora_sb_cores(const MethodSettings& settings) {
  AdapterOptions options = low_rank<Scaling::kStandard, false>(settings);
  return options.low_rank(options.low_rank().alpha(static_cast<double>(settings.rank)).core(true));
}

AdapterOptions edora_cores(const MethodSettings& settings) {
  AdapterOptions options = low_rank<Scaling::kStandard, true>(settings);
  return options.low_rank(options.low_rank().core(true));
}

/// RoRA that begins by a value of --init.
Method rora_from(const char* name, const char* title, const char* init) {
  return {.name = name, .title = title, .init = init, .options = low_rank<Scaling::kRankStabilized, false>};
}

/// RoRA that is trained by a value of --optimizer.
Method rora_by(const char* name, const char* title, const char* optimizer) {
  return {.name = name, .title = title, .optimizer = optimizer, .options = low_rank<Scaling::kRankStabilized, false>};
}

} // namespace

const std::vector<Method>& methods() {
  static const std::vector<Method> all{
      {.name = "lora",
       .title = "LoRA",
       .about = "W + alpha/rank*B*A (LoRA, arXiv 2106.09685)",
       .options = low_rank<Scaling::kStandard, false>},
      {.name = "rora",
       .title = "RoRA",
       .about = "W + alpha/sqrt(rank)*B*A (RoRA, arXiv 2501.04315; rsLoRA, arXiv 2312.03732)",
       .options = low_rank<Scaling::kRankStabilized, false>},
      {.name = "dora",
       .title = "DoRA",
       .about = "magnitude and direction apart, by alpha/rank (DoRA, arXiv 2402.09353)",
       .options = low_rank<Scaling::kStandard, true>},
      {.name = "dora-rora",
       .title = "DoRA, α/√r",
       .about = "the same by alpha/sqrt(rank)",
       .options = low_rank<Scaling::kRankStabilized, true>},
      {.name = "full", .title = "full", .has_rank = false, .has_alpha = false},
      {.name = "series",
       .title = "Series",
       .about =
           "a bottleneck behind each projection of the MLP (Houlsby et al., arXiv 1902.00751, as LLM-Adapters has it)",
       .has_alpha = false,
       .is_mergeable = false,
       .options = bottlenecks<BottleneckForm::kSeries>},
      {.name = "parallel",
       .title = "Parallel",
       .about = "a bottleneck beside each projection (He et al., arXiv 2110.04366, as LLM-Adapters has it)",
       .has_alpha = false,
       .is_mergeable = false,
       .options = bottlenecks<BottleneckForm::kParallel>},
      {.name = "prefix",
       .title = "Prefix",
       .about = "trained keys and values before the text (Li and Liang, arXiv 2101.00190)",
       .has_alpha = false,
       .is_mergeable = false,
       .options = prefixes},
      {.name = "adalora",
       .title = "AdaLoRA",
       .about =
           "W + alpha/init_r*B*diag(E)*A, whose ranks are taken from modules that need them less, down to --rank in "
           "the mean (AdaLoRA, arXiv 2303.10512)",
       .options = with_ranks_to_give,
       .hook = rank_allocator},
      {.name = "sora",
       .title = "SoRA",
       .about =
           "W + alpha/rank*B*diag(g)*A, whose gates g become 0 where they are little used (SoRA, arXiv 2311.11696)",
       .options = with_gates,
       .hook = gate_threshold},
      {.name = "dylora",
       .title = "DyLoRA",
       .about =
           "W + alpha/rank*B*A, trained so that its first ranks are an adapter by themselves, however many (DyLoRA, "
           "arXiv 2210.07558)",
       .options = low_rank<Scaling::kStandard, false>,
       .hook = rank_sampler},
      {.name = "lora-sb",
       .title = "LoRA-SB",
       .about =
           "W + B*R*A with R alone trained, rank x rank, between the singular vectors of AdamW's first step (LoRA-SB, "
           "arXiv 2411.19557)",
       .has_alpha = false,
       .init = "lora-sb",
       .options = lora_sb_cores},
      {.name = "edora",
       .title = "EDoRA",
       .about =
           "DoRA by alpha/rank of W + B*R*A with R and the magnitude trained, between W's singular vectors (EDoRA, "
           "arXiv 2501.12067)",
       .init = "edora",
       .options = edora_cores},
      rora_from("gora", "GoRA", "gora"),
      rora_from("lora-ga", "LoRA-GA", "lora-ga"),
      rora_from("lora-one", "LoRA-One", "lora-one"),
      rora_from("pissa", "PiSSA", "pissa"),
      rora_from("milora", "MiLoRA", "milora"),
      rora_from("olora", "OLoRA", "olora"),
      rora_from("eva", "EVA", "eva"),
      rora_by("lora-rite", "LoRA-RITE", "lora-rite"),
      rora_by("lora-fa", "LoRA-FA", "lora-fa"),
      rora_by("lora-pro", "LoRA-Pro", "lora-pro"),
      rora_by("lora-pro-full", "LoRA-Pro, full", "lora-pro-full"),
      rora_by("scaled-gd", "ScaledGD", "scaled-gd"),
      {.name = "lora-plus",
       .title = "LoRA+",
       .lr_ratio_b = 16.0,
       .options = low_rank<Scaling::kRankStabilized, false>}};
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

const std::vector<Described>& adapter_methods() {
  static const std::vector<Described> kinds = [] {
    std::vector<Described> described;
    for (const Method& method : methods()) {
      if (!method.about.empty()) {
        described.push_back({method.name, method.about});
      }
    }
    return described;
  }();
  return kinds;
}

std::string method_names() {
  std::string names;
  for (const Method& method : methods()) {
    names += (names.empty() ? "" : ", ") + method.name;
  }
  return names;
}

} // namespace rora::cli
