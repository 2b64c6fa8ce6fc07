#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rora {

/// How the learning rate goes after its warm-up.
enum class Schedule {
  kConstant,
  kLinear, ///< to 0 at the last step
  kCosine, ///< half a cosine, to 0 at the last step
};

/// The learning rate of a step (from 0), by transformers' formulas: linear from 0 over `warmup_steps`, then by the
/// schedule over the rest of `total_steps`.
double learning_rate(Schedule schedule, double peak, int64_t step, int64_t warmup_steps, int64_t total_steps);

/// "constant", "linear" or "cosine". Throws `c10::ValueError` that lists the names.
Schedule schedule_from_name(std::string_view name);
std::string schedule_name(Schedule schedule);

} // namespace rora
