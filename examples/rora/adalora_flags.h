#pragma once

#include "flags.h"

#include <rora/adapters/adalora.h>

#include <cstdint>

namespace rora::cli {

/// The flags that say how AdaLoRA gives out ranks.
struct AdaLoraFlags {
  int64_t init_r = 0; ///< 0: half as many again as --rank
  AdaLoraOptions options; ///< of them the steps, the betas and the loss's weight

  void add(Flags& flags);

  /// Throws `UsageError` for one that is given, and has no effect as the method is another.
  static void refuse(const Flags& flags);
};

} // namespace rora::cli
