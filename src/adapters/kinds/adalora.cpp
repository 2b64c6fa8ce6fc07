#include "adalora.h"

#include "config_numbers.h"
#include "low_rank.h"

#include <rora/core/projection.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <tuple>
#include <utility>

namespace rora::detail {
namespace {

/// Behind the name of a module in `rank_pattern`.
const std::string kPatternEnd = ".lora_E";

/// Of `init_r` in the scale's divisor.
constexpr double kEpsilon = 1e-5;

int64_t read_at_least(const JsonObject& config, const std::string& field, int64_t least, int64_t absent) {
  const int64_t value = config.integer(field, absent);
  if (value < least) {
    config.fail(field, "must be at least " + std::to_string(least) + ", not " + std::to_string(value));
  }
  return value;
}

double read_memory(const JsonObject& config, const std::string& field, double absent) {
  const double beta = config.number(field, absent);
  if (beta <= 0.0 || beta >= 1.0) {
    config.fail(field, "must be in (0, 1), not " + config.text(field));
  }
  return beta;
}

AdaLoraOptions read_options(const JsonObject& config) {
  AdaLoraOptions options; // PEFT's own defaults for what is absent
  options.init_r(read_at_least(config, "init_r", 1, options.init_r()));
  options.target_r(read_at_least(config, "target_r", 0, options.target_r()));
  options.alpha(read_float(config, "lora_alpha", options.alpha()));
  if (options.alpha() <= 0.0) { // in whose place PEFT takes the number of ranks that are left
    config.fail("lora_alpha", "must be above 0, not " + config.text("lora_alpha"));
  }
  options.dropout(read_dropout(config, "lora_dropout"));
  options.tinit(read_at_least(config, "tinit", 0, 0));
  options.tfinal(read_at_least(config, "tfinal", 0, 0));
  options.delta_t(read_at_least(config, "deltaT", 1, options.delta_t()));
  options.beta1(read_memory(config, "beta1", options.beta1()));
  options.beta2(read_memory(config, "beta2", options.beta2()));
  options.orth_reg_weight(read_float(config, "orth_reg_weight", options.orth_reg_weight()));
  if (options.orth_reg_weight() < 0.0) {
    config.fail("orth_reg_weight", "must be at least 0, not " + config.text("orth_reg_weight"));
  }
  options.total_step(read_at_least(config, "total_step", 0, 0));
  return options;
}

KeptRanks read_kept(const JsonObject& config, int64_t init_r) {
  KeptRanks kept;
  if (!config.has("rank_pattern")) {
    return kept;
  }
  const JsonObject pattern = config.object("rank_pattern");
  for (const std::string& key : pattern.names()) {
    if (!key.ends_with(kPatternEnd)) {
      pattern.fail(key, "must be a module's name with " + kPatternEnd + " behind it");
    }
    const std::vector<bool> ranks = pattern.booleans(key);
    if (std::ssize(ranks) != init_r) {
      pattern.fail(key, "must be a list of init_r, " + std::to_string(init_r) + ", true and false");
    }
    kept.emplace(key.substr(0, key.size() - kPatternEnd.size()), ranks);
  }
  return kept;
}

std::shared_ptr<const AdapterKind> parse(const JsonObject& config) {
  require_only(config, "bias", "none");
  const AdaLoraOptions options = read_options(config);
  return std::make_shared<AdaLoraKind>(options, read_kept(config, options.init_r()));
}

const AdaLoraAdapter& adalora_of(const NamedAdapter& named) {
  const auto* adapter = dynamic_cast<const AdaLoraAdapter*>(named.adapter.get());
  TORCH_CHECK_VALUE(
      adapter != nullptr, named.module, ": its adapter is none of AdaLoRA's: one folder cannot hold it beside those");
  return *adapter;
}

/// What one folder says once for all of its adapters.
auto common(const AdaLoraOptions& options) {
  return std::tuple(
      options.init_r(), options.target_r(), options.alpha(), options.dropout(), options.tinit(), options.tfinal(),
      options.delta_t(), options.beta1(), options.beta2(), options.orth_reg_weight(), options.total_step());
}

} // namespace

double adalora_scale(const AdaLoraOptions& options) {
  return options.alpha() / (static_cast<double>(options.init_r()) + kEpsilon);
}

AdaLoraKind::AdaLoraKind(const AdaLoraOptions& options, KeptRanks kept) : options_(options), kept_(std::move(kept)) {
  options_.validate();
}

int64_t AdaLoraKind::rank(const std::string& module) const {
  const auto found = kept_.find(module);
  return found == kept_.end() ? options_.init_r() : std::count(found->second.begin(), found->second.end(), true);
}

std::string AdaLoraKind::peft_type() const {
  return "ADALORA";
}

void AdaLoraKind::validate(const std::string& module, const ProjectionImpl& projection) const {
  check_rank(module, options_.init_r(), projection.in_features(), projection.out_features());
}

void AdaLoraKind::check_modules(const std::vector<std::string>& modules) const {
  for (const auto& [module, ranks] : kept_) {
    TORCH_CHECK_VALUE(
        std::find(modules.begin(), modules.end(), module) != modules.end(), "rank_pattern.", module, kPatternEnd,
        " is of a module that has no adapter");
  }
}

std::shared_ptr<Adapter> AdaLoraKind::make(
    const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const {
  const auto found = kept_.find(module);
  return std::make_shared<AdaLoraAdapter>(
      projection, options_, found == kept_.end() ? std::vector<bool>() : found->second);
}

std::vector<AdapterTensor> AdaLoraKind::tensors(const std::string& module, const ProjectionImpl& projection) const {
  const int64_t rank = this->rank(module);
  return {
      {"lora_A", {rank, projection.in_features()}},
      {"lora_E", {rank, 1}},
      {"lora_B", {projection.out_features(), rank}}};
}

void AdaLoraKind::write(JsonFields& config) const {
  config.set("init_r", options_.init_r());
  config.set("target_r", options_.target_r());
  set_number(config, "lora_alpha", options_.alpha());
  config.set("lora_dropout", options_.dropout());
  const int64_t tinit = options_.tinit().value_or(0);
  const int64_t tfinal = options_.tfinal().value_or(0);
  config.set("tinit", tinit);
  config.set("tfinal", tfinal);
  config.set("deltaT", options_.delta_t());
  config.set("beta1", options_.beta1());
  config.set("beta2", options_.beta2());
  config.set("orth_reg_weight", options_.orth_reg_weight());
  // PEFT reads no folder without a step between the two; of an adapter that no run has trained there is no number.
  config.set("total_step", options_.total_step() > 0 ? options_.total_step() : tinit + tfinal + 1);
  if (kept_.empty()) {
    config.set("rank_pattern", nullptr);
  } else {
    JsonFields pattern;
    for (const auto& [module, ranks] : kept_) {
      pattern.set(module + kPatternEnd, ranks);
    }
    config.set("rank_pattern", pattern);
  }
  config.set("bias", "none");
  config.set("fan_in_fan_out", false);
  config.set("init_lora_weights", true);
}

void AdaLoraKind::describe(JsonFields& fields) const {
  fields.set("peft_type", peft_type());
  fields.set("init_r", options_.init_r());
  fields.set("target_r", options_.target_r());
  fields.set("alpha", options_.alpha());
  fields.set("scale", adalora_scale(options_));
  fields.set("dropout", options_.dropout());
  JsonFields ranks;
  for (const auto& [module, kept] : kept_) {
    ranks.set(module, rank(module));
  }
  fields.set("ranks", ranks);
}

std::shared_ptr<const AdapterKind> AdaLoraKind::with_dropout(double dropout) const {
  return std::make_shared<AdaLoraKind>(AdaLoraOptions(options_).dropout(dropout), kept_);
}

std::shared_ptr<const AdapterKind> AdaLoraKind::as_saved(
    const std::vector<NamedAdapter>& adapters, bool portable) const {
  const AdaLoraOptions& first = adalora_of(adapters.front()).options;
  KeptRanks kept;
  bool any_left_out = false;
  for (const NamedAdapter& each : adapters) {
    const AdaLoraAdapter& adapter = adalora_of(each);
    TORCH_CHECK_VALUE(
        common(adapter.options) == common(first), each.module,
        ": its adapter has other options than the others of its name: one folder says them once");
    const auto& own = kept.emplace(each.module, adapter.kept()).first->second;
    any_left_out = any_left_out || std::find(own.begin(), own.end(), false) != own.end();
  }
  return std::make_shared<AdaLoraKind>(first, any_left_out ? kept : KeptRanks());
}

AdapterKindEntry adalora_entry() {
  return {
      "ADALORA",
      {"init_r", "target_r", "lora_alpha", "lora_dropout", "tinit", "tfinal", "deltaT", "beta1", "beta2",
       "orth_reg_weight", "total_step", "rank_pattern", "bias",
       // Fields that say nothing about what the adapter computes:
       "r", "init_lora_weights", "megatron_core", "qalora_group_size"},
      parse};
}

} // namespace rora::detail
