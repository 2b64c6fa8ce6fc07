#include "adapter_flags.h"

#include "methods.h"

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/model/weights_with_room.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <map>
#include <set>

namespace rora::cli {
namespace {

constexpr const char* kAllLinear = "all-linear";

const std::vector<std::pair<std::string, Scaling>> kScalings{
    {"rank-stabilized", Scaling::kRankStabilized}, {"standard", Scaling::kStandard}};

ModuleSelection selection(const std::vector<std::string>& names) {
  return names == std::vector<std::string>{kAllLinear} ? ModuleSelection::every_linear() : ModuleSelection(names);
}

bool same_modules(const ModuleSelection& a, const ModuleSelection& b) {
  const auto sorted = [](const ModuleSelection& each) {
    return std::set<std::string>(each.names.begin(), each.names.end());
  };
  return a.regex == b.regex && a.all_linear == b.all_linear && sorted(a) == sorted(b);
}

/// Modules of the vocabulary by the last parts of their names, as a set: PEFT may name one twice.
std::set<std::string> module_names(const std::vector<std::string>& names) {
  std::set<std::string> last_parts;
  for (const std::string& name : names) {
    last_parts.insert(name.substr(name.rfind('.') + 1));
  }
  return last_parts;
}

/// Tokens by module, whatever their order.
std::map<std::string, std::set<int64_t>> token_sets(const TokenIndices& indices) {
  std::map<std::string, std::set<int64_t>> sets;
  for (const auto& [module, tokens] : indices) {
    sets[module].insert(tokens.begin(), tokens.end());
  }
  return sets;
}

/// The ids of --trainable-token-indices, which are the embedding's.
TokenIndices token_indices(const std::vector<std::string>& ids) {
  std::vector<int64_t> tokens;
  for (const std::string& id : ids) {
    int64_t token = 0;
    const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), token);
    if (error != std::errc() || end != id.data() + id.size()) {
      throw UsageError("--trainable-token-indices: '" + id + "' is not a token's id");
    }
    tokens.push_back(token);
  }
  return tokens.empty() ? TokenIndices() : TokenIndices{{"embed_tokens", tokens}};
}

} // namespace

void AdapterFlags::add_scaling(Flags& flags) {
  flags.choice("scaling", scaling, kScalings, "The scale: alpha/sqrt(rank) or alpha/rank");
  flags.add("dora", dora, "Train a magnitude apart from the direction (DoRA; default: off)");
}

void AdapterFlags::add_rank(Flags& flags) {
  constexpr int64_t kMaxRank = 65536;
  flags.add("rank", rank, "Columns of B and rows of A").between(1, kMaxRank);
}

void AdapterFlags::add(Flags& flags) {
  add_rank(flags);
  flags.add("alpha", alpha, "Numerator of the adapter's scale").positive();
  add_scaling(flags);
  add_dropout(flags);
  add_target_modules(flags);
  add_rows(flags);
  flags.add(
      "init-adapter", init_adapter,
      "A PEFT folder to go on from, which brings rank, alpha, scaling and targets (default: none)");
}

void AdapterFlags::add_dropout(Flags& flags) {
  flags.add("dropout", dropout, "Probability of dropping an element of the adapter's input").in_range(0.0, 1.0);
  flags.choice<ops::DoraDropout>(
      "dora-dropout", dora_dropout, {{"input", ops::DoraDropout::kInput}, {"low-rank", ops::DoraDropout::kLowRank}},
      "What dropout falls on in DoRA: as in PEFT, or the low-rank branch alone");
}

void AdapterFlags::add_method(Flags& flags) {
  flags.choice(
      "method", method, adapter_methods(),
      "What is attached, in place of --scaling and --dora; --rank is the width of series and parallel, and a prefix's "
      "number of tokens (default: what they say)");
  method_flags.add(flags);
}

void AdapterFlags::add_target_modules(Flags& flags) {
  flags.add(
      "target-modules", target_modules, "Modules to adapt, by the ends of their names; all-linear: all but the head",
      ',');
}

void AdapterFlags::add_rows(Flags& flags) {
  flags.add(
      "modules-to-save", modules_to_save,
      "Modules to train and save as a whole beside the adapter: embed_tokens, lm_head", ',');
  flags.add(
      "trainable-token-indices", trainable_token_indices,
      "Ids of tokens whose embeddings are trained beside the adapter, and whose rows of a tied head", ',');
  flags.add(
      "ensure-weight-tying", ensure_weight_tying,
      "Keep a tied head and embedding one weight when --modules-to-save trains it (default: off, as in PEFT)");
}

ModuleSelection AdapterFlags::targets() const {
  return selection(target_modules);
}

MethodSettings AdapterFlags::settings() const {
  return {
      .rank = rank,
      .alpha = alpha,
      .dropout = dropout,
      .dora_dropout = dora_dropout,
      .target_modules = targets(),
      .own = method_flags};
}

std::string AdapterFlags::init() const {
  return method ? find_method("method", *method).init : "default";
}

std::shared_ptr<TrainingHook> AdapterFlags::hook() const {
  const Method* chosen = method ? &find_method("method", *method) : nullptr;
  return chosen != nullptr && chosen->hook != nullptr ? chosen->hook(settings()) : nullptr;
}

AdapterOptions AdapterFlags::resolve_method(const Flags& flags) {
  const Method& chosen = find_method("method", *method);
  AdapterOptions options = chosen.options(settings());
  // A run.json that --config reads gives every flag: what is as it would be without the flag says nothing else.
  AdapterFlags without;
  if (!options.kind()) {
    const LowRankOptions& own = options.low_rank();
    without.scaling = own.scaling();
    without.dora = own.dora();
    without.alpha = own.alpha();
  }
  const auto refuse = [&](const char* flag, bool says_nothing, const std::string& why) {
    if (flags.given(flag) && !says_nothing) {
      throw UsageError(std::string("--") + flag + ": --method " + *method + " " + why);
    }
  };
  refuse("scaling", scaling == without.scaling, "says it already");
  refuse("dora", dora == without.dora, "says it already");
  refuse("init-adapter", false, "is of a new adapter");
  if (!chosen.has_alpha) {
    refuse("alpha", alpha == without.alpha, "has none");
  }
  if (options.target_modules().names.size() < target_modules.size()) {
    refuse(
        "target-modules", target_modules == without.target_modules, "stands at gate_proj, up_proj and down_proj alone");
  }
  if (options.kind()) {
    refuse("dora-dropout", dora_dropout == without.dora_dropout, "has no place for it");
    refuse("modules-to-save", modules_to_save.empty(), "has no place for it");
    refuse("trainable-token-indices", trainable_token_indices.empty(), "has no place for it");
    if (std::dynamic_pointer_cast<const AttentionAdapterKind>(options.kind())) {
      refuse("target-modules", target_modules == without.target_modules, "stands in every attention");
      refuse("dropout", dropout == without.dropout, "has none");
    }
    return options;
  }
  scaling = options.low_rank().scaling();
  dora = options.low_rank().dora();
  alpha = options.low_rank().alpha();
  if (dora_dropout != ops::DoraDropout::kInput && !dora) {
    throw UsageError("--dora-dropout needs a --method with DoRA");
  }
  return options.modules_to_save(modules_to_save)
      .trainable_token_indices(token_indices(trainable_token_indices))
      .ensure_weight_tying(ensure_weight_tying);
}

AdapterOptions AdapterFlags::resolve(const Flags& flags) {
  const auto require_dora = [this] {
    if (dora_dropout != ops::DoraDropout::kInput && !dora) {
      throw UsageError("--dora-dropout needs --dora");
    }
  };
  if (ensure_weight_tying && !init_adapter && modules_to_save.empty()) {
    throw UsageError("--ensure-weight-tying needs --modules-to-save");
  }
  method_flags.refuse_unread(method);
  if (method) {
    return resolve_method(flags);
  }
  if (!init_adapter) {
    require_dora();
    LowRankOptions low_rank;
    low_rank.rank(rank).alpha(alpha).scaling(scaling).dora(dora).dropout(dropout).dora_dropout(dora_dropout);
    return AdapterOptions()
        .low_rank(low_rank)
        .target_modules(targets())
        .modules_to_save(modules_to_save)
        .trainable_token_indices(token_indices(trainable_token_indices))
        .ensure_weight_tying(ensure_weight_tying);
  }
  AdapterOptions options = read_adapter_config(*init_adapter);
  for (const char* flag : {"rank", "alpha", "scaling", "dora", "dropout", "dora-dropout"}) {
    if (options.kind() && flags.given(flag)) {
      throw UsageError(
          std::string("--") + flag + " does not go with --init-adapter " + *init_adapter +
          ", whose adapters are of the kind " + options.kind()->peft_type());
    }
  }
  LowRankOptions low_rank = options.low_rank();
  const auto require = [&](const std::string& flag, bool agrees) {
    if (flags.given(flag) && !agrees) {
      throw UsageError("--" + flag + " contradicts --init-adapter " + *init_adapter);
    }
  };
  require("rank", rank == low_rank.rank());
  require("alpha", alpha == low_rank.alpha());
  require("scaling", scaling == low_rank.scaling());
  require("dora", dora == low_rank.dora());
  require("target-modules", same_modules(targets(), options.target_modules()));
  require("modules-to-save", module_names(modules_to_save) == module_names(options.modules_to_save()));
  require(
      "trainable-token-indices",
      token_sets(token_indices(trainable_token_indices)) == token_sets(options.trainable_token_indices()));
  require("ensure-weight-tying", ensure_weight_tying == options.ensure_weight_tying());
  rank = low_rank.rank();
  alpha = low_rank.alpha();
  scaling = low_rank.scaling();
  dora = low_rank.dora();
  require_dora();
  modules_to_save = options.modules_to_save();
  if (const TokenIndices& indices = options.trainable_token_indices();
      indices.size() == 1 && indices.front().first == "embed_tokens") {
    trainable_token_indices.clear();
    for (const int64_t token : indices.front().second) {
      trainable_token_indices.push_back(std::to_string(token));
    }
  }
  ensure_weight_tying = options.ensure_weight_tying();
  const ModuleSelection& targets = options.target_modules();
  target_modules = targets.all_linear ? std::vector<std::string>{kAllLinear} : targets.names;
  dropout = flags.given("dropout") ? dropout : low_rank.dropout();
  return options.low_rank(low_rank.dropout(dropout).dora_dropout(dora_dropout));
}

void leave_room(CausalLM model, int64_t rank) {
  if (model->device().is_cuda() && model->dtype() == at::kBFloat16 && rank <= kMostRankBesideWeights) {
    leave_room_beside_weights(model, rank);
  }
}

void AdapterFlags::attach(CausalLM model, const AdapterOptions& options) const {
  attach(model, options, [&] { attach_adapters(*model, options); });
}

void AdapterFlags::attach(
    CausalLM model, const AdapterOptions& options, const std::function<void()>& attach_fresh) const {
  const bool tied = model->options.tie_word_embeddings();
  if (!options.kind()) {
    int64_t rank = options.low_rank().rank();
    for (const auto& [pattern, own] : options.rank_pattern()) {
      rank = std::max(rank, own);
    }
    leave_room(model, rank);
  }
  if (init_adapter) {
    const LowRankOptions& low_rank = options.low_rank();
    LoadAdapterOptions load;
    if (!options.kind()) {
      load.dropout(low_rank.dropout()).dora_dropout(low_rank.dora_dropout());
    }
    load_adapter(*model, *init_adapter, load);
  } else {
    if (ensure_weight_tying && !tied) {
      throw UsageError("--ensure-weight-tying: the head of this model is not tied to its embedding");
    }
    attach_fresh();
  }
  if (tied && !model->options.tie_word_embeddings()) {
    std::cerr << "the head is no longer tied to the embedding, as one of them is trained without the other or each for "
                 "itself; --ensure-weight-tying keeps them one\n";
  }
}

} // namespace rora::cli
