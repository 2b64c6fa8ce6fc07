#pragma once

#include "sweep_analysis.h"

#include "common/svg_plot.h"

#include <string>
#include <vector>

namespace rora::cli {

/// One entry for each method of the sweep, in its order.
std::vector<examples::LegendEntry> method_legend(const SweepReport& report);

/// The sections of the page that hold its figures.
std::string sweep_figures(const SweepReport& report);

/// The rules of the figures' colours.
std::string sweep_style(const SweepReport& report);

} // namespace rora::cli
