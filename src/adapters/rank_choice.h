#pragma once

#include "attachment.h"

#include <map>
#include <string>
#include <vector>

namespace rora::detail {

/// Condenses the statistics of the planned modules, has the initializer of `options` choose their ranks, and returns
/// `options` with those in its patterns. Modules of rank 0 leave the plan, whose others are then named one by one.
/// Throws `c10::ValueError` for statistics that are not there, and for ranks beside a pattern of the caller's own.
AdapterOptions choose_ranks(
    std::vector<Attachment>& plan, const AdapterOptions& options, std::map<std::string, WeightStatistics>& statistics);

} // namespace rora::detail
