#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rora::examples {

/// Round numbers (1, 2, 5 times a power of ten) from `minimum` to `maximum`, at most `count` + 1 of them.
std::vector<double> nice_ticks(double minimum, double maximum, int64_t count);

/// Powers of ten between `minimum` and `maximum`, with 2 and 5 times them where there are fewer than three.
std::vector<double> nice_logarithmic_ticks(double minimum, double maximum);

/// "0.25", "1,000"; with `percent` "25%" for 0.25. As many decimals as the number needs, three at most, or its leading
/// digit below that.
std::string format_tick(double value, bool percent);

} // namespace rora::examples
