#include "common/ticks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace rora::examples {

std::vector<double> nice_ticks(double minimum, double maximum, int64_t count) {
  const double rough = (maximum - minimum) / static_cast<double>(count);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10.0 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1.0 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double slack = 1e-9 * (maximum - minimum);
  for (double index = std::ceil((minimum - slack) / step); index * step <= maximum + slack; index += 1.0) {
    ticks.push_back(index * step);
  }
  return ticks;
}

std::vector<double> nice_logarithmic_ticks(double minimum, double maximum) {
  const auto between = [&](const std::vector<double>& factors) {
    std::vector<double> ticks;
    for (double power = std::floor(std::log10(minimum)); power <= std::ceil(std::log10(maximum)); power += 1.0) {
      for (const double factor : factors) {
        const double tick = factor * std::pow(10.0, power);
        if (tick >= minimum * (1.0 - 1e-9) && tick <= maximum * (1.0 + 1e-9)) {
          ticks.push_back(tick);
        }
      }
    }
    return ticks;
  };
  const std::vector<double> powers = between({1.0});
  return powers.size() >= 3 ? powers : between({1.0, 2.0, 5.0});
}

std::string format_tick(double value, bool percent) {
  const double shown = percent ? 100.0 * value : value;
  const double magnitude = std::abs(shown);
  int decimals = 3;
  if (magnitude > 0.0 && magnitude < 1e-3) {
    decimals = static_cast<int>(std::ceil(-std::log10(magnitude) - 1e-9));
  }
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, shown);
  std::string result = text;
  result.erase(result.find_last_not_of('0') + 1);
  if (result.back() == '.') {
    result.pop_back();
  }
  if (result == "-0") {
    result = "0";
  }
  const size_t point = std::min(result.find('.'), result.size());
  const size_t first = result.front() == '-' ? 1 : 0;
  for (size_t position = point; position > first + 3; position -= 3) {
    result.insert(position - 3, 1, ',');
  }
  return percent ? result + "%" : result;
}

} // namespace rora::examples
