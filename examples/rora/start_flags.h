#pragma once

#include "flags.h"

#include <rora/adapters/initializers/gora.h>
#include <rora/adapters/initializers/lora_ga.h>
#include <rora/core/initializer.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// The flags that say how a low-rank adapter begins.
struct StartFlags {
  std::string init = "default";
  GoRAOptions gora;
  int64_t gora_batches = 32;
  bool gora_adaptive_batches = false;
  bool gora_adaptive_gamma = false;
  LoRAGAOptions lora_ga;
  double lora_one_gamma = 128.0;
  double eva_rho = 2.0;
  double lora_sb_step = 0.0; ///< 0: `first_lr`
  double first_lr = 0.0; ///< no flag: see `follow`
  int64_t pissa_iterations = 0;
  int64_t capture_batches = 8;
  int64_t capture_memory = 0; ///< MiB; 0: as many as the weights take
  std::optional<std::string> statistics;

  /// --init and all others.
  void add(Flags& flags);
  /// Those that say how each start is made.
  void add_options(Flags& flags);

  /// Throws `UsageError` for flags that would have no effect.
  void check() const;

  /// Makes `first_lr` that of a training's first step of warm-up.
  void follow(double lr, int64_t warmup_steps);

  /// LoRA-SB's.
  double step() const;

  /// The flags, but --init, whose value is not the default: a file that `--config` reads holds all of them.
  std::vector<std::string> changed() const;

  /// Null for the default.
  std::shared_ptr<const Initializer> initializer() const;
};

/// The names of --init with what they are, but for those that methods alone have.
const std::vector<Described>& starts();

/// The flags that single starts alone read, with the names of those starts: "lora-ga or lora-one".
std::map<std::string, std::string> start_flag_owners();
/// Whether the start of that name reads the flag.
bool owns(const std::string& init, const std::string& flag);

} // namespace rora::cli
