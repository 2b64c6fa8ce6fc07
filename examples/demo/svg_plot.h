#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rora::demo {

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
};

/// What one entry of the legend looks like. `colour` is for a light background; the class `series-N` on every mark lets
/// a style sheet choose others.
struct LegendEntry {
  std::string name;
  std::string colour;
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

/// Panels side by side with the same axes, and one legend above them.
struct Figure {
  std::string description; ///< read out instead of the picture
  Axis x;
  Axis y;
  std::vector<LegendEntry> legend;
  std::vector<Panel> panels;
  double width = 900.0;
  double height = 380.0;
};

/// Round numbers (1, 2, 5 times a power of ten) from `minimum` to `maximum`, at most `count` + 1 of them.
std::vector<double> nice_ticks(double minimum, double maximum, int64_t count);

/// Powers of ten between `minimum` and `maximum`, with 2 and 5 times them where there are fewer than three.
std::vector<double> nice_logarithmic_ticks(double minimum, double maximum);

/// "0.25", "1,000"; with `percent` "25%" for 0.25. As many decimals as the number needs, three at most, or its leading
/// digit below that.
std::string format_tick(double value, bool percent);

/// `text` with the characters escaped that XML and HTML give a meaning to.
std::string escape_markup(const std::string& text);

/// Text and axes take the colour of the text around the picture, so that it suits light and dark pages.
std::string render_svg(const Figure& figure);

} // namespace rora::demo
