#include <rora/adapters/adapter_options.h>

#include "module_matching.h"

namespace rora {

LowRankOptions AdapterOptions::for_module(const std::string& name) const {
  LowRankOptions options = low_rank();
  options.rank(detail::pattern_value(rank_pattern(), name, options.rank()));
  options.alpha(detail::pattern_value(alpha_pattern(), name, options.alpha()));
  return options;
}

} // namespace rora
