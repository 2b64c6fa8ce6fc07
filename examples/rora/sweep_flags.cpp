#include "sweep_flags.h"

#include <algorithm>

namespace rora::cli {
namespace {

/// What may change while a sweep goes on: runs are added, and nothing of the finished ones is.
const std::vector<std::string> kMayChange{"methods", "alphas", "ranks",   "lrs",          "seeds",  "seed",
                                          "output",  "resume", "dry-run", "keep-weights", "within", "save-every"};

} // namespace

const char* task_name(SweepTask task) {
  return task == SweepTask::kChoice ? "choice" : "generation";
}

void SweepFlags::add(Flags& flags) {
  generation.max_new_tokens = 72; // as `rora evaluate`
  model.add_model(flags);
  training.add_data(flags);
  flags.add(
      "methods", methods,
      "What is compared, with commas: " + method_names() +
          "; series stands at the MLP's modules of --target-modules alone, prefix in every attention",
      ',');
  flags.add("ranks", ranks, "Ranks, with commas; of series and parallel widths, of prefix virtual tokens", ',');
  flags.add("alphas", alphas, "Numerators of the scale, with commas: numbers, or 2r for twice the rank", ',');
  flags.add("lrs", lrs, "Learning rates after warm-up, with commas", ',');
  flags.add("seeds", seeds, "Runs a combination: with --seed, the number behind it, and so on").between(1, 1000);
  adapter.add_dropout(flags);
  adapter.add_target_modules(flags);
  training.add_without_lr(flags);
  training.add_fine_tuning(flags);
  flags.add(
      "tasks", tasks,
      "How each trained model answers --test-data, with commas: choice, by likelihood; generation, by what it writes "
      "(default: not at all)",
      ',');
  flags.add(
      "test-data", test_data,
      "Files of records to answer; the accuracy is the mean over the files (default: those of --eval-data)");
  flags.add("limit", limit, "Only the first N records of each file of --test-data; 0: all").between(0, kMaxCount);
  generation.add_max_new_tokens(flags);
  generation.add_beams(flags);
  flags.add("merge", merge, "Merge each adapter that a weight can express before --tasks (default: off)");
  flags
      .add(
          "within", within,
          "How far over the best rate's validation loss a rate may be to count as good: its band in the report")
      .positive();
  flags.add(
      "keep-weights", keep_weights, "Keep what each run trained in its folder, to be loaded later (default: off)");
  model.add_dtype(flags);
  model.add_device(flags);
  model.add_threads(flags);
  model.add_pack_weights(flags);
  model.add_tokenizer(flags);
  model.add_loading(flags);
}

SweepAxes SweepFlags::axes() const {
  training.check();
  if (training.eval_data.empty()) {
    throw UsageError("--eval-data is required: runs are compared by it");
  }
  const std::vector<SweepTask> asked = task_list();
  if (asked.empty() && (!test_data.empty() || limit > 0 || merge)) {
    throw UsageError(
        std::string(
            !test_data.empty() ? "--test-data"
                : merge        ? "--merge"
                               : "--limit") +
        " needs --tasks");
  }
  const bool generates = std::find(asked.begin(), asked.end(), SweepTask::kGeneration) != asked.end();
  if (generation.beams > 1 && !generates) {
    throw UsageError("--beams needs --tasks generation");
  }
  return read_axes(methods, alphas, ranks, lrs, seeds, training.seed);
}

std::vector<SweepTask> SweepFlags::task_list() const {
  std::vector<SweepTask> list;
  for (const std::string& name : tasks) {
    const SweepTask task = name == task_name(SweepTask::kChoice) ? SweepTask::kChoice : SweepTask::kGeneration;
    if (name != task_name(task)) {
      throw UsageError("--tasks: expected choice or generation, found '" + name + "'");
    }
    if (std::find(list.begin(), list.end(), task) != list.end()) {
      throw UsageError("--tasks names a value twice");
    }
    list.push_back(task);
  }
  return list;
}

std::vector<std::string> SweepFlags::test_files() const {
  return test_data.empty() ? training.eval_data : test_data;
}

Json common_flags(const Flags& flags) {
  Json common = flags.resolved();
  for (const std::string& name : kMayChange) {
    common.erase(name);
  }
  return common;
}

} // namespace rora::cli
