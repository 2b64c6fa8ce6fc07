#include "rank_report.h"

#include "common/heat_map.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>

namespace rora::cli {
namespace {

/// Where a module stands in the picture.
struct Place {
  int64_t layer = -1; ///< −1: in none
  std::string projection; ///< "q_proj"
};

Place place_of(const std::string& module) {
  Place place{-1, module.substr(module.rfind('.') + 1)};
  constexpr const char* kLayers = "layers.";
  const size_t begin = module.find(kLayers);
  if (begin != std::string::npos) {
    place.layer = std::atoll(module.c_str() + begin + std::string(kLayers).size());
  }
  return place;
}

} // namespace

std::vector<ModuleRank> module_ranks(const CausalLM& model, const std::vector<std::string>& modules) {
  const auto all = model->named_modules("", /*include_self=*/false);
  std::vector<ModuleRank> ranks;
  for (const std::string& module : modules) {
    const auto* projection = all[module]->as<ProjectionImpl>();
    const auto adapter = std::dynamic_pointer_cast<LowRankAdapter>(projection->adapter(kDefaultAdapter));
    ranks.push_back(
        {module, adapter ? adapter->options.rank() : 0, projection->in_features(), projection->out_features()});
  }
  return ranks;
}

std::string rank_summary(const std::vector<ModuleRank>& ranks, int64_t asked) {
  int64_t least = ranks.front().rank, most = least;
  double used = 0.0, budget = 0.0;
  for (const ModuleRank& each : ranks) {
    least = std::min(least, each.rank);
    most = std::max(most, each.rank);
    const double cost = std::sqrt(static_cast<double>(each.in_features + each.out_features));
    used += cost * static_cast<double>(each.rank);
    budget += cost * static_cast<double>(asked);
  }
  char text[160];
  std::snprintf(
      text, sizeof text,
      "ranks from %lld to %lld; their cost, the sum of sqrt(in + out)*rank, is %.3f of that of rank %lld for all",
      static_cast<long long>(least), static_cast<long long>(most), used / budget, static_cast<long long>(asked));
  return text;
}

void write_ranks(const std::vector<ModuleRank>& ranks, const std::filesystem::path& folder) {
  std::string csv = "module,in_features,out_features,rank\n";
  examples::HeatMap map;
  map.description = "The rank of each projection, by layer";
  std::map<int64_t, std::map<std::string, int64_t>> by_layer;
  for (const ModuleRank& each : ranks) {
    csv += each.module + "," + std::to_string(each.in_features) + "," + std::to_string(each.out_features) + "," +
        std::to_string(each.rank) + "\n";
    const Place place = place_of(each.module);
    by_layer[place.layer][place.projection] = each.rank;
    if (std::find(map.columns.begin(), map.columns.end(), place.projection) == map.columns.end()) {
      map.columns.push_back(place.projection);
    }
  }
  for (const auto& [layer, of_layer] : by_layer) {
    map.rows.push_back(layer < 0 ? "-" : "layer " + std::to_string(layer));
    auto& cells = map.cells.emplace_back();
    for (const std::string& column : map.columns) {
      const auto found = of_layer.find(column);
      cells.push_back(
          found == of_layer.end() ? std::nullopt : std::optional<double>(static_cast<double>(found->second)));
    }
  }
  write_file(folder / "ranks.csv", csv);
  write_file(folder / "ranks.svg", examples::render_svg(map));
}

} // namespace rora::cli
