#include "low_rank.h"

#include "../module_matching.h"
#include "config_numbers.h"

#include <rora/core/low_rank_adapter.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace rora::detail {
namespace {

/// Values of init_lora_weights, as JSON, that fill A and B alone, which the folder stores. The others (PiSSA, OLoRA,
/// CorDA, LoftQ, LoRA-GA) change the base weights too, and PEFT changes them again as it loads.
const std::set<std::string> kInitializations{"null",    "true",           "false",   "\"gaussian\"",
                                             "\"eva\"", "\"orthogonal\"", "\"mica\""};

template <typename T, typename Read>
ModulePattern<T> read_pattern(const JsonObject& config, const std::string& field, Read read) {
  ModulePattern<T> pattern;
  if (!config.has(field)) {
    return pattern;
  }
  const JsonObject object = config.object(field);
  for (const std::string& key : object.names()) {
    try {
      FullMatch{key};
    } catch (const c10::ValueError& error) {
      config.fail(field, error.what_without_backtrace());
    }
    pattern.emplace_back(key, read(object, key));
  }
  return pattern;
}

LowRankOptions read_options(const JsonObject& config) {
  LowRankOptions low_rank; // PEFT's own defaults for what is absent
  low_rank.rank(config.integer("r", 8));
  low_rank.alpha(read_float(config, "lora_alpha", 8.0));
  low_rank.dropout(read_dropout(config, "lora_dropout"));
  low_rank.scaling(config.boolean("use_rslora", false) ? Scaling::kRankStabilized : Scaling::kStandard);
  low_rank.dora(config.boolean("use_dora", false));
  const std::string initialization = config.text("init_lora_weights");
  if (!kInitializations.count(initialization)) {
    config.fail("init_lora_weights", "is not supported: " + initialization);
  }
  if (initialization == "\"gaussian\"") {
    low_rank.initializer(gaussian());
  }
  if (low_rank.rank() < 1) {
    config.fail("r", "must be at least 1, not " + std::to_string(low_rank.rank()));
  }
  return low_rank;
}

std::shared_ptr<const AdapterKind> parse(const JsonObject& config) {
  require_only(config, "bias", "none");
  const LowRankOptions low_rank = read_options(config);
  const auto ranks = read_pattern<int64_t>(
      config, "rank_pattern", [](const JsonObject& object, const std::string& key) { return object.integer(key); });
  const auto alphas = read_pattern<double>(
      config, "alpha_pattern",
      [](const JsonObject& object, const std::string& key) { return read_float(object, key); });
  for (const auto& [key, rank] : ranks) {
    if (rank < 1) {
      config.fail("rank_pattern." + key, "must be at least 1, not " + std::to_string(rank));
    }
  }
  return std::make_shared<LowRankKind>(low_rank, ranks, alphas);
}

JsonFields pattern_fields(const ModulePattern<int64_t>& pattern) {
  JsonFields fields;
  for (const auto& [key, rank] : pattern) {
    fields.set(key, rank);
  }
  return fields;
}

JsonFields pattern_fields(const ModulePattern<double>& pattern) {
  JsonFields fields;
  for (const auto& [key, alpha] : pattern) {
    set_number(fields, key, alpha);
  }
  return fields;
}

std::shared_ptr<const LowRankAdapter> low_rank_adapter(const NamedAdapter& named) {
  auto adapter = std::dynamic_pointer_cast<const LowRankAdapter>(named.adapter);
  TORCH_CHECK_VALUE(
      adapter != nullptr, named.module,
      ": its adapter is not a low-rank one and was not attached as one: one folder cannot hold it beside low-rank "
      "ones");
  return adapter;
}

bool is_rewritten(const LowRankAdapter& adapter) {
  return adapter.initial_A.defined();
}

/// How options are changed on their way into a folder, s kept: a rewritten base asks for rank 2r (`saved_tensors`), and
/// so for alpha·2 under α/r and alpha·√2 under α/√r; readers that know α/r alone for α′ = α·√r.
struct SavedForm {
  bool rewritten;
  bool portable;

  double alpha_factor(Scaling scaling) const {
    return !rewritten ? 1.0 : scaling == Scaling::kStandard ? 2.0 : std::sqrt(2.0);
  }

  LowRankOptions operator()(LowRankOptions options) const {
    options.alpha(options.alpha() * alpha_factor(options.scaling())).rank(options.rank() * (rewritten ? 2 : 1));
    if (portable && options.scaling() == Scaling::kRankStabilized) {
      options.alpha(options.alpha() * std::sqrt(static_cast<double>(options.rank()))).scaling(Scaling::kStandard);
    }
    return options;
  }
};

/// Throws where `own` says otherwise than `first` what one folder says once for all of its adapters.
void check_alike(const std::string& module, const LowRankOptions& own, const LowRankOptions& first) {
  const auto require = [&](bool alike, const char* what) {
    TORCH_CHECK_VALUE(
        alike, module, ": its adapter has another ", what, " than the others of its name: one folder holds one");
  };
  require(own.scaling() == first.scaling(), "scaling");
  require(own.dora() == first.dora(), "use of DoRA");
  require(own.dropout() == first.dropout(), "dropout");
}

} // namespace

LowRankKind::LowRankKind(
    LowRankOptions low_rank, ModulePattern<int64_t> rank_pattern, ModulePattern<double> alpha_pattern)
    : low_rank_(std::move(low_rank)),
      rank_pattern_(std::move(rank_pattern)),
      alpha_pattern_(std::move(alpha_pattern)) {}

LowRankOptions LowRankKind::for_module(const std::string& module) const {
  LowRankOptions options = low_rank_;
  options.rank(pattern_value(rank_pattern_, module, options.rank()));
  options.alpha(pattern_value(alpha_pattern_, module, options.alpha()));
  return options;
}

std::string LowRankKind::peft_type() const {
  return "LORA";
}

void LowRankKind::validate(const std::string& module, const ProjectionImpl& projection) const {
  const LowRankOptions options = for_module(module);
  try {
    options.validate();
    scaling_factor(options.scaling(), options.alpha(), options.rank());
  } catch (const c10::ValueError& error) {
    TORCH_CHECK_VALUE(false, module, ": ", error.what_without_backtrace());
  }
  check_rank(module, options.rank(), projection.in_features(), projection.out_features());
}

void LowRankKind::check_statistics(
    const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const {
  const auto initializer = low_rank_.initializer();
  if (!initializer || !statistics.condensed.empty()) {
    return;
  }
  const auto check = [&](const at::Tensor& tensor, const char* what, const std::vector<int64_t>& shape) {
    TORCH_CHECK_VALUE(
        tensor.defined(), module, ": the initializer '", initializer->name(), "' reads the ", what,
        ", which the statistics lack");
    TORCH_CHECK_VALUE(
        tensor.sizes() == shape, module, ": the ", what, " must have shape ", at::IntArrayRef(shape), ", not ",
        tensor.sizes());
  };
  const int64_t in = projection.in_features();
  if (initializer->needs_gradient()) {
    check(statistics.gradient, "weight's gradient", {projection.out_features(), in});
  }
  if (initializer->needs_input_moment()) {
    check(statistics.input_moment, "moment of the weight's input", {in, in});
    check(statistics.input_mean, "mean of the weight's input", {in});
  }
}

std::shared_ptr<Adapter> LowRankKind::make(
    const std::string& module, const ProjectionImpl& projection, const WeightStatistics& statistics) const {
  return std::make_shared<LowRankAdapter>(projection, for_module(module), statistics);
}

std::vector<AdapterTensor> LowRankKind::tensors(const std::string& module, const ProjectionImpl& projection) const {
  const int64_t in = projection.in_features();
  const int64_t out = projection.out_features();
  const int64_t rank = for_module(module).rank();
  std::vector<AdapterTensor> tensors;
  if (low_rank_.core()) {
    tensors = {{"lora_R", {rank, rank}}};
  } else {
    tensors = {{"lora_A", {rank, in}}, {"lora_B", {out, rank}}};
  }
  if (low_rank_.dora()) {
    tensors.push_back({"lora_magnitude_vector", {out}});
  }
  return tensors;
}

/// ".weight" stands behind all but the magnitude.
std::string LowRankKind::key(const std::string& module, const std::string& tensor) const {
  return AdapterKind::key(module, tensor) + (tensor == "lora_magnitude_vector" ? "" : ".weight");
}

void LowRankKind::write(JsonFields& config) const {
  config.set("r", low_rank_.rank());
  set_number(config, "lora_alpha", low_rank_.alpha());
  config.set("use_rslora", low_rank_.scaling() == Scaling::kRankStabilized);
  config.set("use_dora", low_rank_.dora());
  config.set("lora_dropout", low_rank_.dropout());
  config.set("rank_pattern", pattern_fields(rank_pattern_));
  config.set("alpha_pattern", pattern_fields(alpha_pattern_));
  config.set("bias", "none");
  config.set("fan_in_fan_out", false);
  // Of other starts PEFT would be told how to begin, which the tensors make needless.
  if (low_rank_.initializer() && low_rank_.initializer()->name() == gaussian()->name()) {
    config.set("init_lora_weights", gaussian()->name());
  } else {
    config.set("init_lora_weights", true);
  }
}

void LowRankKind::describe(JsonFields& fields) const {
  fields.set("rank", low_rank_.rank());
  fields.set("alpha", low_rank_.alpha());
  fields.set("scaling", low_rank_.scaling() == Scaling::kRankStabilized ? "rank-stabilized" : "standard");
  fields.set("scale", scaling_factor(low_rank_.scaling(), low_rank_.alpha(), low_rank_.rank()));
  fields.set("dora", low_rank_.dora());
  fields.set("dropout", low_rank_.dropout());
  fields.set("rank_pattern", pattern_fields(rank_pattern_));
  fields.set("alpha_pattern", pattern_fields(alpha_pattern_));
}

std::shared_ptr<const AdapterKind> LowRankKind::as_saved(
    const std::vector<NamedAdapter>& adapters, bool portable) const {
  const auto first = low_rank_adapter(adapters.front());
  const SavedForm form_of_first{is_rewritten(*first), portable};
  // Rank, alpha and their patterns are as attached where the adapters agree, so that a folder loaded and saved again
  // has the same bytes; all else is the adapters' own.
  LowRankOptions low_rank = first->options;
  low_rank.core(false); // R·A is written as A
  low_rank.rank(low_rank_.rank()).alpha(low_rank_.alpha());
  low_rank = form_of_first(low_rank);
  auto rank_pattern = rank_pattern_;
  for (auto& [key, rank] : rank_pattern) {
    rank *= form_of_first.rewritten ? 2 : 1;
  }
  ModulePattern<double> alpha_pattern; // of α′ each module needs its own
  if (low_rank.scaling() == first->options.scaling()) {
    alpha_pattern = alpha_pattern_;
    for (auto& [key, alpha] : alpha_pattern) {
      alpha *= form_of_first.alpha_factor(low_rank.scaling());
    }
  }
  const LowRankKind attached(low_rank, rank_pattern, alpha_pattern);
  ModulePattern<int64_t> own_ranks;
  ModulePattern<double> own_alphas;
  for (const NamedAdapter& each : adapters) {
    const auto adapter = low_rank_adapter(each);
    check_alike(each.module, adapter->options, first->options);
    const LowRankOptions own = SavedForm{is_rewritten(*adapter), portable}(adapter->options);
    const LowRankOptions expected = attached.for_module(each.module);
    if (own.rank() != expected.rank()) {
      own_ranks.emplace_back(pattern_key(each.module, adapters), own.rank());
    }
    if (own.alpha() != expected.alpha()) {
      own_alphas.emplace_back(pattern_key(each.module, adapters), own.alpha());
    }
    if (is_rewritten(*adapter) || adapter->options.initializer() != first->options.initializer()) {
      low_rank.initializer(nullptr);
    }
  }
  rank_pattern.insert(rank_pattern.begin(), own_ranks.begin(), own_ranks.end()); // the first key that matches wins
  alpha_pattern.insert(alpha_pattern.begin(), own_alphas.begin(), own_alphas.end());
  return std::make_shared<LowRankKind>(low_rank, rank_pattern, alpha_pattern);
}

void LowRankKind::put_into(AdapterOptions& options) const {
  options.kind(nullptr).low_rank(low_rank_).rank_pattern(rank_pattern_).alpha_pattern(alpha_pattern_);
}

void check_rank(const std::string& module, int64_t rank, int64_t in, int64_t out) {
  // Such a rank is a slip: the weight's own rank is smaller by far, and A and B would be larger than the weight. Beside
  // a small layer that is no harm, and a default may well be over its size.
  constexpr int64_t kHarmless = 1024;
  TORCH_CHECK_VALUE(
      rank <= std::max(kHarmless, in + out), module, ": rank ", rank, " is over its ", in, " + ", out, " features");
}

std::string pattern_key(const std::string& module, const std::vector<NamedAdapter>& adapters) {
  for (const NamedAdapter& each : adapters) {
    if (each.module.ends_with("." + module)) {
      return "^" + module;
    }
  }
  return module;
}

std::shared_ptr<const AdapterKind> low_rank_kind_of(const std::vector<NamedAdapter>& adapters) {
  return std::make_shared<LowRankKind>(low_rank_adapter(adapters.front())->options);
}

AdapterKindEntry low_rank_entry() {
  return {
      "LORA",
      {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "rank_pattern", "alpha_pattern",
       "init_lora_weights",
       // Fields that say nothing about what the adapter computes:
       "megatron_core", // the name of a module, used only with megatron_config
       "qalora_group_size", // used only with use_qalora
       "loftq_config", "eva_config", "corda_config", "lora_ga_config"}, // of initialisations, which are judged by name
      parse};
}

} // namespace rora::detail
