#pragma once

#include "flags.h"
#include "method_flags.h"

#include <rora/adapters/adapter_options.h>
#include <rora/model/causal_lm.h>
#include <rora/training/hooks.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

struct MethodSettings;

/// The flags that describe an adapter.
struct AdapterFlags {
  int64_t rank = 16;
  double alpha = 16.0;
  Scaling scaling = Scaling::kRankStabilized;
  bool dora = false;
  double dropout = 0.0;
  ops::DoraDropout dora_dropout = ops::DoraDropout::kInput;
  std::vector<std::string> target_modules = kDefaultTargetModules;
  std::optional<std::string> init_adapter;
  std::vector<std::string> modules_to_save;
  std::vector<std::string> trainable_token_indices; ///< ids
  bool ensure_weight_tying = false;
  std::optional<std::string> method; ///< a name of `methods()`; in place of scaling and dora
  MethodFlags method_flags;

  void add_rank(Flags& flags);
  /// Scaling and DoRA.
  void add_scaling(Flags& flags);
  /// Dropout, and what it falls on in DoRA.
  void add_dropout(Flags& flags);
  void add_target_modules(Flags& flags);
  /// What is trained beside the adapter.
  void add_rows(Flags& flags);
  void add_method(Flags& flags);
  /// All of them.
  void add(Flags& flags);

  /// Those of --target-modules.
  ModuleSelection targets() const;

  /// The options asked for. With `--init-adapter` those of its folder, which the variables then hold too. Throws
  /// `UsageError` for a flag that says otherwise, and for one that would have no effect.
  AdapterOptions resolve(const Flags& flags);

  /// The start that the method brings with it, a name of `StartFlags`; "default" where it brings none.
  std::string init() const;

  /// What the method does at a step besides; null: nothing.
  std::shared_ptr<TrainingHook> hook() const;

  /// Attaches what `resolve` returned: read from the folder, or by `attach_fresh`.
  void attach(CausalLM model, const AdapterOptions& options, const std::function<void()>& attach_fresh) const;
  /// A fresh one drawn from LibTorch's generator.
  void attach(CausalLM model, const AdapterOptions& options) const;

 private:
  AdapterOptions resolve_method(const Flags& flags);
  MethodSettings settings() const;
};

/// Up to this rank, products over rows that are so much longer are faster than products apart.
inline constexpr int64_t kMostRankBesideWeights = 128;

/// On a GPU in bfloat16, memory for A and B of ranks up to `rank` beside the frozen weights
/// (`leave_room_beside_weights`). Elsewhere, and for higher ranks, nothing happens.
void leave_room(CausalLM model, int64_t rank);

} // namespace rora::cli
