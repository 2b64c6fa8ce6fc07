#include "common/heat_map.h"

#include "common/svg_plot.h"

#include <algorithm>
#include <cstdio>

namespace rora::examples {
namespace {

constexpr double kCellWidth = 74.0;
constexpr double kCellHeight = 22.0;
constexpr double kLeft = 64.0;
constexpr double kTop = 30.0;
/// A cell's colour and how opaque that of the least and of the largest number is: over a light or a dark page alike.
constexpr const char* kColour = "#4477aa";
constexpr double kLeastOpacity = 0.08;
constexpr double kMostOpacity = 0.85;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor +
      "\" fill=\"currentColor\" dominant-baseline=\"middle\">" + escape_markup(text) + "</text>\n";
}

} // namespace

std::string render_svg(const HeatMap& map) {
  double least = 0.0, most = 0.0;
  bool any = false;
  for (const auto& row : map.cells) {
    for (const auto& cell : row) {
      if (cell) {
        least = any ? std::min(least, *cell) : *cell;
        most = any ? std::max(most, *cell) : *cell;
        any = true;
      }
    }
  }
  const double width = kLeft + kCellWidth * static_cast<double>(map.columns.size()) + 8.0;
  const double height = kTop + kCellHeight * static_cast<double>(map.rows.size()) + 8.0;
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width) + " " + number(height) +
      "\" width=\"" + number(width) + "\" height=\"" + number(height) +
      "\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\">\n<title>" + escape_markup(map.description) +
      "</title>\n";
  for (size_t column = 0; column < map.columns.size(); ++column) {
    svg += text_at(kLeft + kCellWidth * (static_cast<double>(column) + 0.5), kTop / 2, "middle", map.columns[column]);
  }
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTop + kCellHeight * static_cast<double>(row);
    svg += text_at(kLeft - 8.0, y + kCellHeight / 2, "end", map.rows[row]);
    for (size_t column = 0; column < map.cells[row].size(); ++column) {
      const auto& cell = map.cells[row][column];
      if (!cell) {
        continue;
      }
      const double share = most > least ? (*cell - least) / (most - least) : 0.5;
      const double x = kLeft + kCellWidth * static_cast<double>(column);
      svg += "<rect x=\"" + number(x + 1) + "\" y=\"" + number(y + 1) + "\" width=\"" + number(kCellWidth - 2) +
          "\" height=\"" + number(kCellHeight - 2) + "\" fill=\"" + kColour + "\" fill-opacity=\"" +
          number(kLeastOpacity + share * (kMostOpacity - kLeastOpacity)) + "\"/>\n";
      svg += text_at(x + kCellWidth / 2, y + kCellHeight / 2, "middle", number(*cell));
    }
  }
  return svg + "</svg>\n";
}

} // namespace rora::examples
