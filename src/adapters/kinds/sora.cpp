#include "sora.h"

#include "../module_matching.h"
#include "low_rank.h"

#include <rora/core/projection.h>

#include <c10/util/Exception.h>

#include <cmath>
#include <tuple>

namespace rora::detail {
namespace {

const SoraAdapter& sora_of(const NamedAdapter& named) {
  const auto* adapter = dynamic_cast<const SoraAdapter*>(named.adapter.get());
  TORCH_CHECK_VALUE(
      adapter != nullptr, named.module, ": its adapter is none of SoRA's: one folder cannot hold it beside those");
  return *adapter;
}

/// The options of LoRA that give rank `saved` the scale of `options`.
LowRankOptions as_low_rank(const SoraOptions& options, int64_t saved, bool portable) {
  const double ratio = static_cast<double>(saved) / static_cast<double>(options.rank());
  const bool standard = options.scaling() == Scaling::kStandard;
  LowRankOptions low_rank = LowRankOptions().rank(saved).scaling(options.scaling()).dropout(options.dropout());
  low_rank.alpha(options.alpha() * (standard ? ratio : std::sqrt(ratio)));
  if (portable && !standard) {
    low_rank.alpha(low_rank.alpha() * std::sqrt(static_cast<double>(saved))).scaling(Scaling::kStandard);
  }
  return low_rank;
}

} // namespace

SoraKind::SoraKind(const SoraOptions& options) : options_(options) {
  options_.validate();
}

std::string SoraKind::peft_type() const {
  return "LORA";
}

void SoraKind::validate(const std::string& module, const ProjectionImpl& projection) const {
  check_rank(module, options_.rank(), projection.in_features(), projection.out_features());
}

std::shared_ptr<Adapter> SoraKind::make(
    const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const {
  return std::make_shared<SoraAdapter>(projection, options_);
}

std::vector<AdapterTensor> SoraKind::tensors(const std::string& module, const ProjectionImpl& projection) const {
  const int64_t rank = options_.rank();
  return {
      {"lora_A", {rank, projection.in_features()}}, {"gate", {rank, 1}}, {"lora_B", {projection.out_features(), rank}}};
}

void SoraKind::write(JsonFields& config) const {
  LowRankKind(as_low_rank(options_, options_.rank(), /*portable=*/false)).write(config);
}

std::shared_ptr<const AdapterKind> SoraKind::with_dropout(double dropout) const {
  return std::make_shared<SoraKind>(SoraOptions(options_).dropout(dropout));
}

std::shared_ptr<const AdapterKind> SoraKind::as_saved(const std::vector<NamedAdapter>& adapters, bool portable) const {
  const SoraOptions& first = sora_of(adapters.front()).options;
  const auto common = [](const SoraOptions& options) {
    return std::tuple(options.rank(), options.alpha(), options.scaling(), options.dropout());
  };
  const LowRankOptions most = as_low_rank(first, first.rank(), portable);
  ModulePattern<int64_t> ranks;
  ModulePattern<double> alphas;
  for (const NamedAdapter& each : adapters) {
    const SoraAdapter& adapter = sora_of(each);
    TORCH_CHECK_VALUE(
        common(adapter.options) == common(first), each.module,
        ": its adapter has other options than the others of its name: one folder says them once");
    const LowRankOptions own = as_low_rank(first, adapter.saved_rank(), portable);
    const std::string key = pattern_key(each.module, adapters);
    if (own.rank() != most.rank()) {
      ranks.emplace_back(key, own.rank());
    }
    if (own.alpha() != most.alpha()) {
      alphas.emplace_back(key, own.alpha());
    }
  }
  return std::make_shared<LowRankKind>(most, ranks, alphas);
}

} // namespace rora::detail
