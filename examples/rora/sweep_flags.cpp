#include "sweep_flags.h"

#include <algorithm>

namespace rora::cli {
namespace {

/// What may change while a sweep goes on: which runs there are, and nothing that decides what the finished ones gave.
const std::vector<std::string> kMayChange{
    "methods", "alphas",     "ranks",     "lrs",           "seeds",
    "seed",    "output",     "resume",    "dry-run",       "keep-weights",
    "within",  "save-every", "chat-date", "checkpointing", "activation-checkpointing"};

} // namespace

const char* task_name(SweepTask task) {
  return task == SweepTask::kChoice ? "choice" : "generation";
}

void SweepFlags::add(Flags& flags) {
  generation.max_new_tokens = 72; // as `rora evaluate`
  model.add_model(flags);
  training.add_data(flags, /*eval_is_required=*/true);
  flags.add(
      "methods", methods,
      "What is compared, with commas: " + method_names() +
          "; full trains in float32, series stands at the MLP's modules of --target-modules alone, prefix in every "
          "attention",
      ',');
  flags.add("ranks", ranks, "Ranks, with commas; of series and parallel widths, of prefix virtual tokens", ',');
  flags.add("alphas", alphas, "Numerators of the scale, with commas: numbers, or 2r for twice the rank", ',');
  flags.add("lrs", lrs, "Learning rates after warm-up, with commas", ',');
  flags.add("seeds", seeds, "Runs of each combination, with the seeds --seed, --seed + 1, …").between(1, 1000);
  adapter.add_dropout(flags);
  adapter.add_target_modules(flags);
  training.add_without_lr(flags);
  training.add_fine_tuning(flags);
  start.add_options(flags);
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
  flags.add(
      "reference-model", reference_model,
      "The folder of the model before `rora prune`: the report says how much of what was lost is won back (default: "
      "none)");
  model.add_dtype(flags);
  model.add_device(flags);
  model.add_threads(flags);
  model.add_pack_weights(flags);
  model.add_tokenizer(flags);
  model.add_loading(flags);
}

SweepAxes SweepFlags::axes(const Flags& flags) {
  clip_given = flags.given("clip");
  training.check();
  if (training.output.empty()) {
    throw UsageError("--output is empty");
  }
  const auto require = [&](const std::string& flag, bool holds, const std::string& what) {
    if (flags.given(flag) && !holds) {
      throw UsageError("--" + flag + " needs " + what);
    }
  };
  const std::vector<SweepTask> asked = task_list();
  for (const char* const flag : {"test-data", "limit", "merge"}) {
    require(flag, !asked.empty(), "--tasks");
  }
  const bool generates = std::find(asked.begin(), asked.end(), SweepTask::kGeneration) != asked.end();
  for (const char* const flag : {"beams", "max-new-tokens"}) {
    require(flag, generates, "--tasks generation");
  }
  const std::vector<std::string> files = test_files();
  for (size_t i = 0; i < files.size(); ++i) {
    if (std::find(files.begin(), files.begin() + static_cast<std::ptrdiff_t>(i), files[i]) - files.begin() !=
        static_cast<std::ptrdiff_t>(i)) {
      throw UsageError(
          std::string(test_data.empty() ? "--eval-data" : "--test-data") + " names " + files[i] + " twice");
    }
  }
  const SweepAxes axes = read_axes(methods, alphas, ranks, lrs, seeds, training.seed);
  const auto any = [&](auto holds) { return std::any_of(axes.methods.begin(), axes.methods.end(), holds); };
  const bool adapts = any([](const Method* method) { return method->options != nullptr; });
  require("ranks", any([](const Method* method) { return method->has_rank; }), "a method with a rank");
  require("alphas", any([](const Method* method) { return method->has_alpha; }), "a method with an alpha");
  require("dropout", adapts, "a method with an adapter");
  require("target-modules", adapts, "a method with an adapter");
  if (flags.given("lr-ratio-b") && any([](const Method* method) { return method->lr_ratio_b != 1.0; })) {
    throw UsageError("--lr-ratio-b: the method lora-plus has a ratio of its own");
  }
  const auto owners = start_flag_owners();
  for (const std::string& flag : start.changed()) {
    require(flag, any([&](const Method* method) { return owns(method->init, flag); }), "the method " + owners.at(flag));
  }
  require(
      "dora-dropout",
      any([](const Method* method) { return method->options != nullptr && method->options({}).low_rank().dora(); }),
      "a method with DoRA");
  return axes;
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

Json common_flags(const Flags& flags, const StartFlags& start) {
  Json common = flags.resolved();
  for (const std::string& name : kMayChange) {
    common.erase(name);
  }
  const std::vector<std::string> changed = start.changed();
  for (const auto& [name, owners] : start_flag_owners()) {
    if (std::find(changed.begin(), changed.end(), name) == changed.end()) {
      common.erase(name);
    }
  }
  return common;
}

} // namespace rora::cli
