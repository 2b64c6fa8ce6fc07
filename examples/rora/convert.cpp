#include "adapter_sums.h"
#include "command.h"

#include <algorithm>
#include <iostream>

namespace rora::cli {
namespace {

struct Arguments {
  std::string adapter;
  AdapterOutputFlags output;
  std::optional<double> alpha;
  std::optional<int64_t> first_ranks;
  bool uniform = false;
};

/// Brings every module to the rank that is asked for.
void change_rank(LowRankFolder& adapter, int64_t rank) {
  const bool cuts = std::any_of(
      adapter.modules.begin(), adapter.modules.end(), [&](const auto& each) { return each.second.rank() > rank; });
  if (cuts) {
    const ChangeError error = reduce_rank(adapter, rank);
    std::cout << "rank " << rank << " "
              << (error.module.empty() ? "leaves nothing out" : "changes " + error_text(error)) << "\n";
  }
  pad_rank(adapter, rank);
}

int convert(const Arguments& arguments) {
  arguments.output.check();
  LowRankFolder adapter = read_low_rank_folder(arguments.adapter);
  if (arguments.first_ranks) {
    take_ranks(adapter, *arguments.first_ranks);
  }
  if (arguments.output.rank) {
    change_rank(adapter, *arguments.output.rank);
  }
  write_adapter(
      adapter, arguments.output.output,
      SaveLowRankOptions().scaling(arguments.output.scaling).alpha(arguments.alpha).uniform(arguments.uniform));
  return 0;
}

} // namespace

Run add_convert(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  flags
      .add(
          "adapter", arguments->adapter,
          "The PEFT folder to convert, of low-rank adapters, DoRA and AdaLoRA among them")
      .required();
  arguments->output.add_output(flags);
  arguments->output.add_scaling(flags);
  flags
      .add(
          "alpha", arguments->alpha,
          "Write this alpha for all modules; B takes over what that changes of their scales (default: alphas that keep "
          "each module's scale, and B as it is)")
      .positive();
  flags.add(
      "uniform", arguments->uniform,
      "Write one rank and one alpha, without patterns: factors of smaller ranks are filled up with zeros, and B takes "
      "over what that changes of scales (default: off)");
  arguments->output.add_rank(
      flags,
      "The rank of all modules: lower ones are filled up with zeros, which stay zeros in training; higher ones become "
      "the nearest change of that rank, which DoRA has none of (default: each as it is)");
  flags
      .add(
          "first-ranks", arguments->first_ranks,
          "Keep the first N ranks of each module at their alpha: of an adapter of --method dylora these are one by "
          "themselves (default: all)")
      .between(1, kMaxCount);
  return [arguments] { return convert(*arguments); };
}

} // namespace rora::cli
