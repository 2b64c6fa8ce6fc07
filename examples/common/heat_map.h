#pragma once

#include <optional>
#include <string>
#include <vector>

namespace rora::examples {

/// Numbers by row and column, each in a cell that is the stronger the larger it is.
struct HeatMap {
  std::string description; ///< read out instead of the picture
  std::vector<std::string> rows; ///< from the top on
  std::vector<std::string> columns;
  std::vector<std::vector<std::optional<double>>> cells; ///< by row; a cell without a number stays empty
};

/// Text takes the colour of the text around the picture, so that it suits light and dark pages.
std::string render_svg(const HeatMap& map);

} // namespace rora::examples
