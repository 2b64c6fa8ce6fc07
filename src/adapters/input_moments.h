#pragma once

#include <rora/adapters/weight_statistics.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rora::detail {

/// The mean of x and of x·xᵀ, in fp64, over the inputs x that the named projections read at labelled tokens of the
/// batches. Projections that read one tensor share theirs. Throws `c10::ValueError`.
StatisticsByModule capture_input_moments(
    CausalLM model, const std::vector<std::string>& modules, int64_t batches,
    const std::function<CaptureBatch(int64_t batch)>& batch);

} // namespace rora::detail
