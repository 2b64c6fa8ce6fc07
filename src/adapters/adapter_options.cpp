#include <rora/adapters/adapter_options.h>

#include "kinds/low_rank.h"

#include <c10/util/Exception.h>

namespace rora {

LowRankOptions AdapterOptions::for_module(const std::string& name) const {
  return detail::LowRankKind(low_rank(), rank_pattern(), alpha_pattern()).for_module(name);
}

std::shared_ptr<const AdapterKind> AdapterOptions::resolved_kind() const {
  if (!kind()) {
    return std::make_shared<detail::LowRankKind>(low_rank(), rank_pattern(), alpha_pattern());
  }
  TORCH_CHECK_VALUE(
      rank_pattern().empty() && alpha_pattern().empty(),
      "rank_pattern and alpha_pattern are of low-rank adapters: they say nothing of the kind ", kind()->peft_type());
  return kind();
}

} // namespace rora
