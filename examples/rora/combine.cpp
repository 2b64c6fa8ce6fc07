#include "adapter_sums.h"
#include "command.h"

namespace rora::cli {
namespace {

struct Arguments {
  std::vector<std::string> adapters;
  std::string weights;
  AdapterOutputFlags output;
};

int combine(const Arguments& arguments) {
  const std::vector<double> weights = read_weights(arguments.weights, arguments.adapters.size());
  arguments.output.check();
  CombinedAdapter sum = combine_adapters(read_adapters(arguments.adapters), weights);
  write_sum(sum, arguments.output);
  return 0;
}

} // namespace

Run add_combine(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  flags
      .add(
          "adapters", arguments->adapters,
          "The PEFT folders of low-rank adapters to add up, whatever their ranks and scalings. A module that one lacks "
          "is the others' sum. DoRA has no such sum, nor do modules_to_save")
      .required();
  flags
      .add(
          "weights", arguments->weights,
          "A number for each adapter, with commas: 1,-1 subtracts the second from the first")
      .required();
  arguments->output.add_output(flags);
  arguments->output.add_rank(
      flags,
      "Bring modules of a higher rank down to it, by the change of that rank that is nearest to the sum (default: the "
      "sum of the ranks, but for adapters that share A or B)");
  arguments->output.add_scaling(flags);
  return [arguments] { return combine(*arguments); };
}

} // namespace rora::cli
