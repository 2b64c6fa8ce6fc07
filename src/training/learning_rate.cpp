#include <rora/training/learning_rate.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rora {

double learning_rate(Schedule schedule, double peak, int64_t step, int64_t warmup_steps, int64_t total_steps) {
  if (step < warmup_steps) {
    return peak * static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup_steps));
  }
  const auto rest = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) / rest);
  switch (schedule) {
    case Schedule::kConstant:
      return peak;
    case Schedule::kLinear:
      return peak * (1.0 - progress);
    case Schedule::kCosine:
      return peak * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  }
  return peak;
}

Schedule schedule_from_name(std::string_view name) {
  for (const Schedule each : {Schedule::kConstant, Schedule::kLinear, Schedule::kCosine}) {
    if (schedule_name(each) == name) {
      return each;
    }
  }
  TORCH_CHECK_VALUE(false, "schedule '", name, "' is none of constant, linear, cosine");
}

std::string schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::kConstant:
      return "constant";
    case Schedule::kLinear:
      return "linear";
    case Schedule::kCosine:
      return "cosine";
  }
  return {};
}

} // namespace rora
