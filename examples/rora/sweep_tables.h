#pragma once

#include "sweep_analysis.h"

#include "common/markup.h"

#include <string>
#include <vector>

namespace rora::cli {

/// The method with its α where the sweep has several: "RoRA", "RoRA, α = 2r".
std::string method_title(const SweepReport& report, const Method& method, const AlphaRule& alpha);

/// A learning rate by two digits: "0.0003".
std::string rate_text(double lr);

/// Whether its best rate stays in place, or why that is not known.
std::string verdict_of(const RateDrift& drift);

/// What each method reaches at its best rate, by rank; what is left of their differences; where the best rates lie, how
/// wide their bands are, and how they go with the rank.
std::vector<examples::TitledTable> sweep_tables(const SweepReport& report);

/// Parameters, time and memory: what another machine would say otherwise.
examples::TitledTable cost_table(const SweepReport& report);

} // namespace rora::cli
