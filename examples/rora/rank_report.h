#pragma once

#include <rora/model/causal_lm.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace rora::cli {

/// The rank of a module's low-rank adapter.
struct ModuleRank {
  std::string module; ///< "model.layers.0.self_attn.q_proj"
  int64_t rank = 0; ///< 0: it has none
  int64_t in_features = 0;
  int64_t out_features = 0;
};

/// Those of the modules, in the order of the model's layers.
std::vector<ModuleRank> module_ranks(const CausalLM& model, const std::vector<std::string>& modules);

/// "ranks from 4 to 21; their cost, the sum of sqrt(in + out)*rank, is 0.98 of that of rank 8 for all".
std::string rank_summary(const std::vector<ModuleRank>& ranks, int64_t asked);

/// Writes ranks.csv (module, in, out, rank) and ranks.svg, a heat map of layers and projections, into the folder.
void write_ranks(const std::vector<ModuleRank>& ranks, const std::filesystem::path& folder);

} // namespace rora::cli
