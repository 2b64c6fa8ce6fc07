#pragma once

#include "common/svg_plot.h"

#include <cstddef>
#include <string>
#include <vector>

namespace rora::examples {

/// Rows of text under the names of their columns.
struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
  std::vector<size_t> words = {}; ///< the columns that are set flush left, as words are; numbers are set flush right
  std::vector<size_t> groups = {}; ///< the rows that begin a group, which a line or an empty row sets off
  std::vector<size_t> swatches = {}; ///< a row's entry of the legend, whose colour stands in `swatch_column`; or none
  size_t swatch_column = 0;
};

/// The table for a terminal, each column as wide as its widest cell.
std::string text_table(const Table& table);

/// The table as an element of a page, which a narrow screen scrolls.
std::string html_table(const Table& table);

/// A table of a report, with what it is about.
struct TitledTable {
  std::string title;
  std::string text;
  Table table;
};

/// The same for a terminal, with an empty line in front, and as a section of a page.
std::string text_section(const TitledTable& section);
std::string html_section(const TitledTable& section);

/// Colours for ranks from the lowest on, or whatever else has an order: the higher the stronger.
std::vector<LegendEntry> ordered_legend(const std::vector<std::string>& names);

/// The rules that give `legend` its colours on light and on dark pages: of lines, of marks, and of spans of the class
/// `swatch-N` for its N-th entry. `style` is that of its figures.
std::string legend_style(const std::vector<LegendEntry>& legend, const std::string& style = {});

/// A page that needs no other file, light or dark as the reader's screen is. `body` is markup; a `section` in it is a
/// card, `figures` stand side by side where there is room, a paragraph of the class `soft` is less prominent.
std::string html_page(const std::string& title, const std::string& style, const std::string& body);

} // namespace rora::examples
