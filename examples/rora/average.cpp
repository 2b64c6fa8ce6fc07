#include "adapter_sums.h"
#include "command.h"

#include <iostream>
#include <limits>
#include <numeric>

namespace rora::cli {
namespace {

struct Arguments {
  std::vector<std::string> adapters;
  std::optional<std::string> weights;
  AdapterOutputFlags output;
};

/// Weights that add up to 1: alike unless given.
std::vector<double> shares(const Arguments& arguments) {
  const size_t count = arguments.adapters.size();
  std::vector<double> weights =
      arguments.weights ? read_weights(*arguments.weights, count) : std::vector<double>(count, 1.0);
  for (const double weight : weights) {
    if (weight < 0.0) {
      throw UsageError("--weights: those of an average must not be negative (rora combine subtracts)");
    }
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (!(sum > 0.0) || sum > std::numeric_limits<double>::max()) {
    throw UsageError("--weights: those of an average must have a sum above 0 that is finite");
  }
  for (double& weight : weights) {
    weight /= sum;
  }
  return weights;
}

int average(const Arguments& arguments) {
  const std::vector<double> weights = shares(arguments);
  arguments.output.check();
  CombinedAdapter sum = combine_adapters(read_adapters(arguments.adapters), weights);
  std::cout << "averaged";
  for (size_t i = 0; i < weights.size(); ++i) {
    std::cout << (i == 0 ? " " : ", ") << Json(weights[i]).dump() << " of " << arguments.adapters[i];
  }
  std::cout << "\n";
  write_sum(sum, arguments.output);
  return 0;
}

} // namespace

Run add_average(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  flags
      .add_words(
          "adapters", arguments->adapters,
          "The PEFT folders of low-rank adapters. Where clients trained one factor alone and share the other, bit by "
          "bit, the average is that factor's; else it is the sum of weight * change, of all their ranks together")
      .required();
  flags.add(
      "weights", arguments->weights,
      "A number for each adapter, with commas, such as its examples; each counts by its share of their sum (default: "
      "all alike)");
  arguments->output.add_output(flags);
  arguments->output.add_rank(
      flags, "Bring modules of a higher rank down to it, by the change of that rank that is nearest (default: not)");
  arguments->output.add_scaling(flags);
  return [arguments] { return average(*arguments); };
}

} // namespace rora::cli
