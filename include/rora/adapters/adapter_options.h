#pragma once

#include <rora/core/rora_linear_options.h>

#include <torch/arg.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

class AdapterKind;

/// Which modules of a model are meant, by PEFT's rules for `target_modules` and `exclude_modules`.
struct ModuleSelection {
  /// A module is meant where its whole name, or its end after a dot, is one of these.
  std::vector<std::string> names;
  /// Or, where not empty: a regular expression (PCRE2's) that the whole name must match.
  std::string regex;
  /// Or every projection but the language-model head: PEFT's "all-linear".
  bool all_linear = false;

  ModuleSelection() = default;
  ModuleSelection(std::vector<std::string> names) : names(std::move(names)) {}
  static ModuleSelection matching(std::string regex) {
    ModuleSelection selection;
    selection.regex = std::move(regex);
    return selection;
  }
  static ModuleSelection every_linear() {
    ModuleSelection selection;
    selection.all_linear = true;
    return selection;
  }
  bool empty() const {
    return names.empty() && regex.empty() && !all_linear;
  }
  bool operator==(const ModuleSelection&) const = default;
};

/// The attention and MLP projections of a LLaMA: what is adapted unless something else is asked for.
inline const std::vector<std::string> kDefaultTargetModules{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                            "gate_proj", "up_proj", "down_proj"};

/// Values for some modules, by a key that PEFT matches as `(.*\.)?(KEY)$` against the module's name; the first key
/// wins.
template <typename T>
using ModulePattern = std::vector<std::pair<std::string, T>>;

/// Tokens whose rows are trained, by module ("embed_tokens", "lm_head"): PEFT's `trainable_token_indices`.
using TokenIndices = std::vector<std::pair<std::string, std::vector<int64_t>>>;

/// What is attached to a model: PEFT's `LoraConfig`, or another of its configs by `kind`.
struct AdapterOptions {
  /// Another kind of adapter than low-rank ones, with its options; null: low-rank ones of the options here.
  TORCH_ARG(std::shared_ptr<const AdapterKind>, kind);
  /// Rank, alpha, scaling, DoRA and dropout of every adapted module.
  TORCH_ARG(LowRankOptions, low_rank);
  TORCH_ARG(ModuleSelection, target_modules) = kDefaultTargetModules;
  TORCH_ARG(ModuleSelection, exclude_modules);
  /// Ranks and alphas of modules that differ; a module's scale follows from its own.
  TORCH_ARG(ModulePattern<int64_t>, rank_pattern);
  TORCH_ARG(ModulePattern<double>, alpha_pattern);
  /// Only these layers; empty is all.
  TORCH_ARG(std::vector<int64_t>, layers_to_transform);
  /// Beside the adapters: of "embed_tokens" and "lm_head" those that are trained as a whole (`TrainedRows`). One that
  /// is a target module too has no adapter of the kind.
  TORCH_ARG(std::vector<std::string>, modules_to_save);
  /// Tokens whose rows alone are trained, of modules that `modules_to_save` does not name. Those of the embedding are
  /// the rows of a head that is tied to it, too.
  TORCH_ARG(TokenIndices, trainable_token_indices);
  /// Whether one weight serves a head that is tied to the embedding and the embedding when `modules_to_save` has it
  /// trained; otherwise such a head is untied and keeps, or trains, a weight of its own, as in PEFT.
  TORCH_ARG(bool, ensure_weight_tying) = false;

 public:
  /// The low-rank options of the module of that name, patterns applied.
  LowRankOptions for_module(const std::string& name) const;

  /// `kind`, or the low-rank kind of the options beside it. Throws `c10::ValueError` for patterns beside a kind of
  /// their own.
  std::shared_ptr<const AdapterKind> resolved_kind() const;
};

} // namespace rora
