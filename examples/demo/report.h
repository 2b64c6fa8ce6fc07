#pragma once

#include "demo/comparison.h"

#include <string>
#include <vector>

namespace rora::demo {

/// The table of the runs in plain text, a run a line, ordered as they are.
std::string text_table(const Comparison& comparison);

/// Loss against step, a panel a rank.
std::string loss_figure(const Comparison& comparison);

/// Accuracy against rank, with the standard errors and the accuracy without an adapter.
std::string accuracy_figure(const Comparison& comparison);

/// One HTML file with both figures and the table; it needs no other file.
std::string html_report(const Comparison& comparison);

} // namespace rora::demo
