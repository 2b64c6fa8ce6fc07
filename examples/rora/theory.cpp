#include "command.h"
#include "model_flags.h"
#include "output_folder.h"
#include "theory_report.h"
#include "theory_training.h"
#include "theory_training_report.h"

#include "common/progress_bar.h"

#include <rora/checkpoint/file.h>

#include <algorithm>
#include <charconv>
#include <iostream>

namespace rora::cli {
namespace {

constexpr int64_t kMaxRank = 65536;
constexpr int64_t kMaxFeatures = int64_t{1} << 20;
constexpr int64_t kMaxSamples = 10'000'000;

struct Arguments {
  ModelFlags model; ///< its threads
  std::vector<std::string> ranks{"4", "8", "16", "32", "64", "128", "256"};
  double alpha = 16.0;
  int64_t in_features = 1024;
  int64_t out_features = 64;
  theory::InitialA initial_a = theory::InitialA::kUniform;
  int64_t samples = 4000;
  int64_t seed = 0;
  std::optional<std::string> output;
  GrowthFlags growth;
};

/// Those of --ranks, from the lowest on.
std::vector<int64_t> read_ranks(const std::vector<std::string>& texts) {
  std::vector<int64_t> ranks;
  for (const std::string& text : texts) {
    int64_t rank = 0;
    const auto end = std::from_chars(text.data(), text.data() + text.size(), rank);
    if (end.ec != std::errc() || end.ptr != text.data() + text.size() || rank < 1 || rank > kMaxRank) {
      throw UsageError(
          "--ranks: expected whole numbers from 1 to " + std::to_string(kMaxRank) + ", found '" + text + "'");
    }
    ranks.push_back(rank);
  }
  std::sort(ranks.begin(), ranks.end());
  if (std::adjacent_find(ranks.begin(), ranks.end()) != ranks.end()) {
    throw UsageError("--ranks names a rank twice");
  }
  if (ranks.size() < 3) {
    throw UsageError("--ranks: a slope needs at least three of them");
  }
  return ranks;
}

std::vector<theory::FirstStepMeasurement> measure(
    const theory::FirstStepOptions& options, const std::vector<int64_t>& ranks) {
  int64_t rows = 0;
  for (const int64_t rank : ranks) {
    rows += rank;
  }
  examples::ProgressBar bar("first steps", rows);
  std::vector<theory::FirstStepMeasurement> measurements;
  int64_t done = 0;
  for (const int64_t rank : ranks) {
    bar.update(done, "rank " + std::to_string(rank));
    measurements.push_back(theory::measure_first_step(options, rank));
    done += rank;
  }
  bar.clear();
  return measurements;
}

int run_theory(const Arguments& arguments) {
  const std::vector<int64_t> ranks = read_ranks(arguments.ranks);
  arguments.growth.check();
  // Made ahead of the work, at whose end a folder that cannot be written would be a surprise.
  std::optional<StagedFolder> staged;
  if (arguments.output) {
    if (arguments.output->empty()) {
      throw UsageError("--output names no folder");
    }
    require_neither_model_nor_adapter(*arguments.output);
    staged.emplace(*arguments.output);
  }
  arguments.model.use_threads();
  const auto options = theory::FirstStepOptions()
                           .in_features(arguments.in_features)
                           .out_features(arguments.out_features)
                           .initial_a(arguments.initial_a)
                           .samples(arguments.samples)
                           .seed(static_cast<uint64_t>(arguments.seed));
  std::optional<ModelGrowth> growth; // first: what is wrong with a model or its data is seen before the rest is drawn
  if (arguments.growth.model) {
    growth = measure_model_growth(arguments.growth, arguments.model, ranks, arguments.alpha, arguments.seed);
  }
  TheoryReport report = make_theory_report(options, arguments.alpha, measure(options, ranks));
  report.growth = std::move(growth);
  std::cout << theory_text(report) << std::flush;
  if (staged) {
    write_file(staged->path() / "theory.json", theory_json(report).dump(2) + "\n");
    write_file(staged->path() / "theory.csv", theory_csv(report));
    write_file(staged->path() / "theory.html", theory_html(report));
    if (report.growth) {
      write_file(staged->path() / "training.csv", growth_csv(*report.growth));
    }
    staged->commit();
    std::cout << "\nwritten to " << *arguments.output << ": theory.html, theory.json, theory.csv"
              << (report.growth ? ", training.csv\n" : "\n");
  }
  return 0;
}

} // namespace

Run add_theory(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  flags.add("ranks", arguments->ranks, "The ranks, with commas, at least three", ',');
  flags.add("alpha", arguments->alpha, "Numerator of the scales; the exponents do not hang on it").positive();
  flags.add("in-features", arguments->in_features, "Inputs of the layer: the laws are for ranks far below them")
      .between(1, kMaxFeatures);
  flags.add("out-features", arguments->out_features, "Outputs of the layer").between(1, kMaxFeatures);
  flags.choice<theory::InitialA>(
      "initial-a", arguments->initial_a,
      {{"uniform", theory::InitialA::kUniform}, {"normal", theory::InitialA::kStandardNormal}},
      "What A is drawn from: ±1/√in, as adapters begin, or the standard normal that the paper assumes");
  flags.add("samples", arguments->samples, "First steps a rank that are drawn and measured")
      .between(theory::FirstStepOptions::kFewestSamples, kMaxSamples);
  flags.add("seed", arguments->seed, "Decides what is drawn").at_least(0);
  flags.add("output", arguments->output, "The folder for theory.html, theory.json and theory.csv (default: none)");
  arguments->growth.add(flags);
  arguments->model.add_dtype(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_tokenizer(flags);
  arguments->model.add_loading(flags);
  return [arguments] { return run_theory(*arguments); };
}

} // namespace rora::cli
