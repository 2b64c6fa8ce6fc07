#pragma once

#include "theory_tables.h"
#include "theory_training.h"

#include "common/svg_plot.h"

#include <rora/theory/laws.h>

#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// The fitted growth of a change in training, over the geometric mean of all projections, with what is claimed of it.
struct GrowthTest {
  int64_t step = 0;
  bool output = true; ///< of outputs; otherwise of weights
  theory::RankScale scale = theory::kRoraScale;
  /// The paper's for outputs, γ²·r whatever the scale; for weights AdamW's of the first step.
  double claimed = 0.0;
  std::optional<double> by_gradient; ///< of the first step's output: the closed form's slope, from the batch's gradient
  std::optional<theory::Estimate> fitted; ///< none where fewer than three ranks got so far
  theory::Verdict verdict = theory::Verdict::kUndecided;
};

/// For the first step and the last, outputs and weights, and each scale.
std::vector<GrowthTest> test_growth(const ModelGrowth& growth);

/// Measured/closed form of the first step's mean square, over the projections, rank by rank.
std::vector<theory::Estimate> first_step_ratios(const ModelGrowth& growth);

std::vector<examples::TitledTable> growth_tables(const ModelGrowth& growth);

/// A line for each run, measured step and projection.
std::string growth_csv(const ModelGrowth& growth);

Json growth_json(const ModelGrowth& growth);

/// The part of a page: its figures.
std::string growth_figures(const ModelGrowth& growth, const std::vector<examples::LegendEntry>& scale_legend);

/// The rules of its own legend.
std::string growth_style(const ModelGrowth& growth);

} // namespace rora::cli
