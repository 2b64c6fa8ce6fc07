#pragma once

#include "flags.h"

#include <rora/adapters/adalora.h>
#include <rora/adapters/sora.h>

#include <cstdint>
#include <optional>
#include <string>

namespace rora::cli {

/// The flags that single methods alone read.
struct MethodFlags {
  int64_t adalora_init_r = 0; ///< 0: half as many again as --rank
  AdaLoraOptions adalora; ///< of them the steps, the betas and the loss's weight
  SoraOptions sora; ///< of them the loss's weight and the threshold
  bool dylora_train_all = false; ///< of the ranks that are drawn; else the last alone

  void add(Flags& flags);

  /// Throws `UsageError` for a flag that is not at its default and that `method` does not read. (A file that `--config`
  /// reads gives all of them.)
  void refuse_unread(const std::optional<std::string>& method) const;
};

} // namespace rora::cli
