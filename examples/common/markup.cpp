#include "common/markup.h"

#include <algorithm>
#include <utility>

namespace rora::examples {
namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; --page: #f4f5f7; --card: #ffffff; --ink: #1f2430; --soft: #5b6270; --line: #dfe2e8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14161b; --card: #1d2027; --ink: #e8eaf0; --soft: #a2a9b8; --line: #333845; }
}
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 40px 20px 60px; }
main.wide { max-width: 1320px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4em; }
h2 { font-size: 1.1rem; margin: 0 0 .2em; }
p { margin: .3em 0 .9em; max-width: 75ch; }
.soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 26px; margin: 22px 0; }
svg { display: block; width: 100%; height: auto; margin-top: 10px; }
.scroll { overflow-x: auto; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 8px 26px; }
.figures svg { max-width: 640px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin-top: 10px; }
th, td { text-align: right; padding: 6px 10px; white-space: nowrap; }
th.words, td.words { text-align: left; }
th { font-weight: 600; color: var(--soft); font-size: .88rem; border-bottom: 1px solid var(--line); }
tr.first td { border-top: 1px solid var(--line); }
code { font-size: .92em; }
.swatch { display: inline-block; width: .65em; height: .65em; border-radius: 2px; margin-right: .55em; }
@media (max-width: 600px) {
  main { padding: 20px 10px 40px; }
  section { padding: 14px 12px; }
  th, td { padding: 5px 7px; }
}
)css";

bool holds(const std::vector<size_t>& places, size_t place) {
  return std::find(places.begin(), places.end(), place) != places.end();
}

/// Characters that take a place of their own.
size_t columns_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char byte) { return (byte & 0xC0) != 0x80; }));
}

} // namespace

std::string text_table(const Table& table) {
  std::vector<std::vector<std::string>> rows{table.columns};
  rows.insert(rows.end(), table.rows.begin(), table.rows.end());
  std::vector<size_t> widths(table.columns.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], columns_of(row[i]));
    }
  }
  std::string text;
  for (size_t row = 0; row < rows.size(); ++row) {
    std::string line = row >= 2 && holds(table.groups, row - 1) ? "\n" : "";
    for (size_t i = 0; i < rows[row].size(); ++i) {
      const std::string& cell = rows[row][i];
      const std::string blanks(widths[i] - columns_of(cell), ' ');
      line += (i == 0 ? "" : "  ") + (holds(table.words, i) ? cell + blanks : blanks + cell);
    }
    text += line.erase(line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string html_table(const Table& table) {
  const auto cell = [&](const char* tag, size_t column, const std::string& before, const std::string& text) {
    return std::string("<") + tag + (holds(table.words, column) ? " class=\"words\">" : ">") + before +
        escape_markup(text) + "</" + tag + ">";
  };
  std::string html = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (size_t i = 0; i < table.columns.size(); ++i) {
    html += cell("th", i, "", table.columns[i]);
  }
  html += "</tr></thead>\n<tbody>\n";
  for (size_t row = 0; row < table.rows.size(); ++row) {
    html += holds(table.groups, row) ? "<tr class=\"first\">" : "<tr>";
    for (size_t i = 0; i < table.rows[row].size(); ++i) {
      const bool swatch = i == table.swatch_column && row < table.swatches.size();
      const std::string before =
          swatch ? "<span class=\"swatch swatch-" + std::to_string(table.swatches[row]) + "\"></span>" : "";
      html += cell("td", i, before, table.rows[row][i]);
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string text_section(const TitledTable& section) {
  return "\n" + section.title + "\n" + section.text + "\n\n" + text_table(section.table);
}

std::string html_section(const TitledTable& section) {
  return "<section>\n<h2>" + escape_markup(section.title) + "</h2>\n<p class=\"soft\">" + escape_markup(section.text) +
      "</p>\n" + html_table(section.table) + "</section>\n";
}

std::vector<LegendEntry> ordered_legend(const std::vector<std::string>& names) {
  // From pale to dark on light pages and the other way on dark ones.
  static const std::vector<std::pair<const char*, const char*>> kColours{
      {"#b8c4d6", "#5d6f91"}, {"#8fa8cc", "#6683b3"}, {"#6389bf", "#7397cc"}, {"#3a69ab", "#86aee2"},
      {"#1f4c8f", "#9cc2f2"}, {"#12336b", "#bdd9fb"}, {"#081d45", "#e0eefe"}};
  std::vector<LegendEntry> legend;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto& [light, dark] = kColours[names.size() == 1 ? 0 : i * (kColours.size() - 1) / (names.size() - 1)];
    legend.push_back({names[i], light, dark, "", Marker::kCircle});
  }
  return legend;
}

std::string legend_style(const std::vector<LegendEntry>& legend, const std::string& style) {
  std::string light;
  std::string dark;
  for (size_t i = 0; i < legend.size(); ++i) {
    const std::string index = style + "-" + std::to_string(i);
    light += ".swatch" + index + " { background: " + legend[i].colour + "; }\n";
    if (!legend[i].dark_colour.empty()) {
      const std::string& colour = legend[i].dark_colour;
      dark += "  .series" + index + " { stroke: " + colour + "; } .mark" + index + " { fill: " + colour +
          "; } .swatch" + index + " { background: " + colour + "; }\n";
    }
  }
  return light + "@media (prefers-color-scheme: dark) {\n" + dark + "}\n";
}

std::string html_page(const std::string& title, const std::string& style, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      escape_markup(title) + "</title>\n<style>" + kStyle + style + "</style>\n</head>\n<body>\n" + body +
      "</body>\n</html>\n";
}

} // namespace rora::examples
