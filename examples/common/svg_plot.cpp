#include "common/svg_plot.h"

#include "common/ticks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace rora::examples {
namespace {

constexpr double kFontSize = 13.0;
// A generous guess for sans-serif letters.
constexpr double kCharacterWidth = 0.58 * kFontSize;
constexpr double kLegendHeight = 34.0; // of its first row, the others are closer
constexpr double kLegendRow = 24.0;
constexpr double kLegendLine = 34.0;
constexpr double kLegendGap = 26.0;
constexpr double kTitleHeight = 24.0;
constexpr double kBottom = 52.0;
constexpr double kRight = 18.0;
constexpr double kPanelGap = 26.0;

// A number in an attribute: two decimals, no exponent.
std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  std::string result = text;
  result.erase(result.find_last_not_of('0') + 1);
  if (result.back() == '.') {
    result.pop_back();
  }
  return result == "-0" ? "0" : result;
}

std::string attribute(const char* name, double value) {
  return std::string(" ") + name + "=\"" + number(value) + "\"";
}

double text_width(const std::string& text) {
  return kCharacterWidth * static_cast<double>(std::count_if(text.begin(), text.end(), [](unsigned char byte) {
           return (byte & 0xC0) != 0x80;
         }));
}

std::string text_element(
    double x, double y, const char* anchor, const std::string& text, const std::string& extra = "") {
  return "<text" + attribute("x", x) + attribute("y", y) + " text-anchor=\"" + anchor + "\"" + extra + ">" +
      escape_markup(text) + "</text>\n";
}

std::string line_element(double x1, double y1, double x2, double y2, const std::string& extra) {
  return "<line" + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) + attribute("y2", y2) + extra +
      "/>\n";
}

std::string marker_element(Marker marker, double x, double y, const std::string& extra) {
  switch (marker) {
    case Marker::kCircle:
      return "<circle" + attribute("cx", x) + attribute("cy", y) + " r=\"4.5\"" + extra + "/>\n";
    case Marker::kSquare:
      return "<rect" + attribute("x", x - 4.2) + attribute("y", y - 4.2) + " width=\"8.4\" height=\"8.4\"" + extra +
          "/>\n";
    case Marker::kTriangle:
      return "<path d=\"M" + number(x) + " " + number(y - 5.4) + "l5.2 9.2h-10.4z\"" + extra + "/>\n";
    case Marker::kNone:
      break;
  }
  return "";
}

// Values to coordinates along one side of a panel.
class Scale {
 public:
  Scale(double minimum, double maximum, bool logarithmic, double from, double to)
      : logarithmic_(logarithmic), from_(from), to_(to) {
    low_ = place(minimum);
    high_ = place(maximum);
  }

  bool shows(double value) const {
    return std::isfinite(value) && (!logarithmic_ || value > 0.0);
  }
  // Inside the panel whatever the value.
  double operator()(double value) const {
    return from_ + (to_ - from_) * std::clamp((place(value) - low_) / (high_ - low_), 0.0, 1.0);
  }

 private:
  double place(double value) const {
    return logarithmic_ ? std::log10(value) : value;
  }

  bool logarithmic_;
  double from_;
  double to_;
  double low_ = 0.0;
  double high_ = 1.0;
};

struct Range {
  double minimum = 0.0;
  double maximum = 1.0;
  std::vector<double> ticks;
};

// The axis's own range, or that of the points, widened to round numbers.
Range range_of(const Axis& axis, const std::vector<double>& values) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const double value : values) {
    if (std::isfinite(value) && (!axis.logarithmic || value > 0.0)) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (low > high) {
    low = axis.logarithmic ? 1.0 : 0.0;
    high = axis.logarithmic ? 10.0 : 1.0;
  }
  low = axis.minimum.value_or(low);
  high = axis.maximum.value_or(high);
  if (!(low < high)) {
    const double half = low == 0.0 ? 0.5 : 0.1 * std::abs(low);
    high = axis.logarithmic ? 1.5 * low : low + half;
    low = axis.logarithmic ? low / 1.5 : low - half;
    high = axis.percent && low <= 1.0 ? std::min(high, 1.0) : high;
  }
  Range range{low, high, axis.ticks};
  if (range.ticks.empty()) {
    range.ticks = axis.logarithmic ? nice_logarithmic_ticks(low, high) : nice_ticks(low, high, 5);
  }
  return range;
}

std::vector<double> coordinates(const Figure& figure, bool of_y) {
  std::vector<double> values;
  for (const Panel& panel : figure.panels) {
    for (const Series& series : panel.series) {
      for (const Point& point : series.points) {
        values.push_back(of_y ? point.y : point.x);
        if (of_y && point.error > 0.0) { // the whole bar
          values.push_back(point.y - point.error);
          values.push_back(point.y + point.error);
        }
      }
    }
  }
  return values;
}

// Draws the panels of one figure.
class Painter {
 public:
  explicit Painter(const Figure& figure)
      : figure_(figure),
        x_range_(range_of(figure.x, coordinates(figure, false))),
        y_range_(range_of(figure.y, coordinates(figure, true))) {
    double widest = 0.0;
    for (const double tick : y_range_.ticks) {
      widest = std::max(widest, text_width(format_tick(tick, figure.y.percent)));
    }
    left_ = 30.0 + widest + 10.0;
    const bool titled = std::any_of(
        figure.panels.begin(), figure.panels.end(), [](const Panel& panel) { return !panel.title.empty(); });
    legend_rows_ = legend_rows();
    const auto rows = static_cast<double>(legend_rows_.size());
    top_ = 8.0 + (rows > 0.0 ? kLegendHeight + (rows - 1.0) * kLegendRow : 0.0) + (titled ? kTitleHeight : 0.0);
    const auto panels = static_cast<double>(std::max<size_t>(figure.panels.size(), 1));
    panel_width_ = (figure.width - left_ - kRight - kPanelGap * (panels - 1.0)) / panels;
    bottom_ = figure.height - kBottom;
  }

  std::string paint() const {
    std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(figure_.width) + " " +
        number(figure_.height) + "\" role=\"img\" aria-label=\"" + escape_markup(figure_.description) +
        "\" font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif\" font-size=\"" +
        number(kFontSize) + "\" fill=\"currentColor\">\n";
    svg += legend();
    for (size_t i = 0; i < figure_.panels.size(); ++i) {
      const double left = left_ + static_cast<double>(i) * (panel_width_ + kPanelGap);
      svg += frame(left, figure_.panels[i].title, i == 0) + lines(left, figure_.panels[i].series);
    }
    const double middle = (left_ + figure_.width - kRight) / 2.0;
    svg += text_element(middle, figure_.height - 8.0, "middle", figure_.x.label);
    const double y_middle = (top_ + bottom_) / 2.0;
    svg += text_element(
        16.0, y_middle, "middle", figure_.y.label, " transform=\"rotate(-90 16 " + number(y_middle) + ")\"");
    return svg + "</svg>\n";
  }

 private:
  double legend_width(size_t entry) const {
    return kLegendLine + 8.0 + text_width(figure_.legend[entry].name) + kLegendGap;
  }

  // The entries of each row: as many as there is room for.
  std::vector<std::vector<size_t>> legend_rows() const {
    std::vector<std::vector<size_t>> rows;
    double used = 0.0;
    for (size_t i = 0; i < figure_.legend.size(); ++i) {
      const double width = legend_width(i);
      if (rows.empty() || left_ + used + width - kLegendGap > figure_.width - kRight) {
        rows.emplace_back();
        used = 0.0;
      }
      rows.back().push_back(i);
      used += width;
    }
    return rows;
  }

  std::string legend() const {
    std::string svg;
    double y = 19.0;
    double widest = 0.0;
    for (const std::vector<size_t>& row : legend_rows_) {
      double width = -kLegendGap;
      for (const size_t i : row) {
        width += legend_width(i);
      }
      widest = std::max(widest, width);
    }
    for (const std::vector<size_t>& row : legend_rows_) {
      double x = std::max(left_, (left_ + figure_.width - kRight - widest) / 2.0);
      for (const size_t i : row) {
        const LegendEntry& entry = figure_.legend[i];
        svg += line_element(x, y, x + kLegendLine, y, stroke(i, 2.6, 1.0));
        svg += marker_element(entry.marker, x + kLegendLine / 2.0, y, fill(i));
        svg += text_element(x + kLegendLine + 8.0, y + 0.35 * kFontSize, "start", entry.name);
        x += legend_width(i);
      }
      y += kLegendRow;
    }
    return svg;
  }

  std::string frame(double left, const std::string& title, bool with_labels) const {
    const Scale x = x_scale(left);
    const Scale y = y_scale();
    const double right = left + panel_width_;
    std::string svg;
    for (const double tick : y_range_.ticks) {
      svg += line_element(left, y(tick), right, y(tick), " stroke=\"currentColor\" stroke-opacity=\"0.13\"");
      if (with_labels) {
        svg += text_element(left - 8.0, y(tick) + 0.35 * kFontSize, "end", format_tick(tick, figure_.y.percent), kSoft);
      }
    }
    svg += line_element(left, bottom_, right, bottom_, " stroke=\"currentColor\" stroke-opacity=\"0.55\"");
    double free_from = -std::numeric_limits<double>::infinity();
    for (const double tick : x_range_.ticks) {
      const std::string label = format_tick(tick, figure_.x.percent);
      const double half = text_width(label) / 2.0;
      svg += line_element(x(tick), bottom_, x(tick), bottom_ + 5.0, " stroke=\"currentColor\" stroke-opacity=\"0.55\"");
      // A label that would touch the one before it is left out.
      if (x(tick) - half >= free_from) {
        svg += text_element(x(tick), bottom_ + 20.0, "middle", label, kSoft);
        free_from = x(tick) + half + 6.0;
      }
    }
    if (!title.empty()) {
      svg += text_element((left + right) / 2.0, top_ - 9.0, "middle", title, " font-weight=\"600\"");
    }
    return svg;
  }

  std::string lines(double left, const std::vector<Series>& all) const {
    std::string svg;
    for (const bool faint : {true, false}) {
      for (const Series& series : all) {
        if (series.faint == faint) {
          svg += line(left, series);
        }
      }
    }
    return svg;
  }

  std::string line(double left, const Series& series) const {
    const Scale x = x_scale(left);
    const Scale y = y_scale();
    std::string path;
    std::string marks;
    bool pen_down = false;
    for (const Point& point : series.points) {
      if (!x.shows(point.x) || !y.shows(point.y)) {
        pen_down = false;
        continue;
      }
      path += pen_down ? 'L' : 'M';
      path += number(x(point.x)) + " " + number(y(point.y));
      pen_down = true;
      if (point.error > 0.0 && y.shows(point.y - point.error) && y.shows(point.y + point.error)) {
        marks += line_element(
            x(point.x), y(point.y - point.error), x(point.x), y(point.y + point.error),
            stroke(series.legend, 1.4, 0.7));
      }
      if (series.markers) {
        marks += marker_element(figure_.legend.at(series.legend).marker, x(point.x), y(point.y), fill(series.legend));
      }
    }
    if (path.empty()) {
      return "";
    }
    if (!series.joined) {
      return marks;
    }
    return "<path d=\"" + path + "\" fill=\"none\" stroke-linejoin=\"round\"" +
        stroke(series.legend, series.faint ? 1.0 : 2.4, series.faint ? 0.25 : 1.0) + "/>\n" + marks;
  }

  std::string stroke(size_t index, double width, double opacity) const {
    const LegendEntry& entry = figure_.legend.at(index);
    const std::string dashes =
        entry.dashes.empty() || opacity < 1.0 ? "" : " stroke-dasharray=\"" + entry.dashes + "\"";
    return " class=\"series" + figure_.style + "-" + std::to_string(index) + "\" stroke=\"" + entry.colour + "\"" +
        attribute("stroke-width", width) + attribute("stroke-opacity", opacity) + dashes;
  }

  std::string fill(size_t index) const {
    return " class=\"mark" + figure_.style + "-" + std::to_string(index) + "\" fill=\"" +
        figure_.legend.at(index).colour + "\"";
  }

  Scale x_scale(double left) const {
    const double margin = figure_.x.logarithmic ? 0.1 * panel_width_ : 0.0;
    return {x_range_.minimum, x_range_.maximum, figure_.x.logarithmic, left + margin, left + panel_width_ - margin};
  }
  Scale y_scale() const {
    return {y_range_.minimum, y_range_.maximum, figure_.y.logarithmic, bottom_, top_};
  }

  static constexpr const char* kSoft = " fill-opacity=\"0.75\"";

  const Figure& figure_;
  Range x_range_;
  Range y_range_;
  std::vector<std::vector<size_t>> legend_rows_;
  double left_ = 0.0;
  double top_ = 0.0;
  double bottom_ = 0.0;
  double panel_width_ = 0.0;
};

} // namespace

std::string escape_markup(const std::string& text) {
  std::string escaped;
  for (const char character : text) {
    switch (character) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += character;
    }
  }
  return escaped;
}

std::string render_svg(const Figure& figure) {
  return Painter(figure).paint();
}

} // namespace rora::examples
