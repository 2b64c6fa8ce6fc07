#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rora::examples {

struct Point {
  double x = 0.0;
  double y = 0.0;
  double error = 0.0; ///< half the height of an error bar; 0 is none
};

enum class Marker { kNone, kCircle, kSquare, kTriangle };

/// One line. Points that are not finite, or not positive on a logarithmic axis, are left out and break it.
struct Series {
  std::vector<Point> points;
  /// Which entry of the figure's legend it belongs to: colour, dashes and marker follow from that.
  size_t legend = 0;
  bool markers = false;
  bool faint = false; ///< thin and pale, behind the others
  bool joined = true; ///< by a line; otherwise markers and error bars alone
};

/// What one entry of the legend looks like. `colour` is for a light background; the classes `series-N` of lines and
/// `mark-N` of marks let a style sheet choose others (`legend_style`).
struct LegendEntry {
  std::string name;
  std::string colour;
  std::string dark_colour; ///< for a dark background; empty is the same
  std::string dashes; ///< SVG's stroke-dasharray; empty is a whole line
  Marker marker = Marker::kNone;
};

struct Axis {
  std::string label;
  bool logarithmic = false;
  bool percent = false; ///< ticks read "40%" for 0.4
  std::optional<double> minimum = std::nullopt; ///< where absent, from the points
  std::optional<double> maximum = std::nullopt;
  std::vector<double> ticks = {}; ///< empty: round numbers
};

struct Panel {
  std::string title; ///< may be empty
  std::vector<Series> series;
};

/// Panels side by side with the same axes, and one legend above them, in several rows where one has no room.
struct Figure {
  std::string description; ///< read out instead of the picture
  Axis x;
  Axis y;
  std::vector<LegendEntry> legend;
  std::string style = {}; ///< goes into the names of the classes, where a page has several legends: `seriesSTYLE-N`
  std::vector<Panel> panels;
  double width = 900.0;
  double height = 380.0;
};

/// `text` with the characters escaped that XML and HTML give a meaning to.
std::string escape_markup(const std::string& text);

/// Text and axes take the colour of the text around the picture, so that it suits light and dark pages.
std::string render_svg(const Figure& figure);

} // namespace rora::examples
