// The demo: teaches the model that the repository ships facts it cannot know, with LoRA, RoRA and DoRA at three ranks,
// prints a table and writes a report with figures: rora_demo [REPORT.html]

#include "demo/comparison.h"
#include "demo/facts.h"
#include "demo/fine_tuning.h"
#include "demo/report.h"

#include "common/progress_bar.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/model/pretrained.h>

#include <c10/util/Exception.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>

namespace rora::demo {
namespace {

constexpr uint64_t kFactsSeed = 3;
constexpr int64_t kPeople = 12;
constexpr int64_t kThingsEach = 8;

/// The prompt, the answer and EOS; labels on the latter two.
Example as_example(const Tokenizer& tokenizer, const Record& record) {
  Example example;
  example.input_ids = tokenizer.encode(record.prompt);
  example.labels.assign(example.input_ids.size(), kIgnoreIndex);
  std::vector<int64_t> answer = tokenizer.encode(record.completion, /*add_special_tokens=*/false);
  answer.push_back(tokenizer.eos_id.value());
  example.input_ids.insert(example.input_ids.end(), answer.begin(), answer.end());
  example.labels.insert(example.labels.end(), answer.begin(), answer.end());
  return example;
}

void compare(const std::filesystem::path& report) {
  const auto start = std::chrono::steady_clock::now();
  FineTuningTask task;
  task.model = load_model(RORA_DEMO_MODEL, at::kFloat);
  task.tokenizer = load_tokenizer(RORA_DEMO_MODEL);
  task.facts = make_facts(kFactsSeed, kPeople, kThingsEach);
  for (const Record& fact : task.facts) {
    task.examples.push_back(as_example(*task.tokenizer, fact));
  }

  Comparison comparison;
  comparison.facts = static_cast<int64_t>(task.facts.size());
  comparison.example = task.facts.front();
  comparison.model_parameters = count_parameters(*task.model).total;
  comparison.before = measure_accuracy(task.model, *task.tokenizer, task.facts);
  const ComparisonOptions& options = comparison.options;
  std::printf(
      "A LLaMA of %lld parameters is taught %lld facts such as \"%s\" %s.\n",
      static_cast<long long>(comparison.model_parameters), static_cast<long long>(comparison.facts),
      comparison.example.prompt.c_str(), comparison.example.completion.c_str());

  const auto runs = static_cast<int64_t>(options.ranks.size() * kMethods.size());
  examples::ProgressBar bar("demo", runs * options.steps);
  for (const int64_t rank : options.ranks) {
    for (const Method method : kMethods) {
      const std::string name = method_name(method) + " rank " + std::to_string(rank);
      const int64_t done = static_cast<int64_t>(comparison.runs.size()) * options.steps;
      comparison.runs.push_back(fine_tune(task, method, rank, options, [&](int64_t step, double loss) {
        char detail[64];
        std::snprintf(detail, sizeof detail, "%s loss %.3f", name.c_str(), loss);
        bar.update(done + step, detail);
      }));
      const Run& run = comparison.runs.back();
      bar.clear();
      std::printf("%-14s %5.1f%% right after %.1f s\n", name.c_str(), 100.0 * run.accuracy.share, run.seconds);
      std::fflush(stdout);
    }
  }
  bar.finish();
  comparison.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("\n%s\n", text_table(comparison).c_str());
  write_file(report, html_report(comparison));
  std::printf(
      "All of it took %.0f s. The report with its figures: %s\n", comparison.seconds,
      std::filesystem::absolute(report).string().c_str());
}

} // namespace
} // namespace rora::demo

int main(int argc, char** argv) {
  if (argc > 2) {
    std::fprintf(stderr, "usage: rora_demo [REPORT.html]\n");
    return 2;
  }
  try {
    rora::demo::compare(argc == 2 ? argv[1] : "demo.html");
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "rora_demo: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rora_demo: %s\n", error.what());
    return 1;
  }
  return 0;
}
