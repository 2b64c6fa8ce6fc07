#include "sweep_training.h"

#include "output_folder.h"
#include "patience.h"
#include "stop_signals.h"
#include "training_results.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/json_object.h>
#include <rora/checkpoint/mapped_files.h>
#include <rora/training/device_memory.h>
#include <rora/training/memory_estimate.h>

#include <torch/utils.h>

#include <chrono>
#include <cstdio>
#include <system_error>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

/// Steps by which a step's time is measured; the last one counts.
constexpr int64_t kMeasuredSteps = 3;

/// How a run's adapter began.
constexpr const char* kStartFile = "start.safetensors";

CausalLM load_whole(const SweepFlags& flags) {
  ModelFlags own = flags.model;
  own.dtype = at::kFloat; // updates are too small for bfloat16's eight bits
  own.no_mmap = true;
  own.pack_weights = false;
  CausalLM model = own.load();
  for (at::Tensor& parameter : model->parameters()) {
    parameter.set_requires_grad(true);
  }
  return model;
}

Json run_json(const SweepRun& run) {
  Json json;
  json["method"] = run.method->name;
  json["alpha"] = run.method->has_alpha ? Json(run.alpha.text()) : Json(nullptr);
  json["rank"] = run.method->has_rank ? Json(run.rank) : Json(nullptr);
  json["lr"] = run.lr;
  json["seed"] = run.seed;
  if (run.method->options == nullptr) {
    json["dtype"] = "float32"; // whatever --dtype says of the others
  }
  return json;
}

/// Checkpoints of a run that has ended, and how it began.
void remove_checkpoints(const fs::path& folder) {
  std::error_code error;
  fs::remove(folder / kStartFile, error);
  std::vector<fs::path> found;
  for (fs::directory_iterator next(folder, error), end; !error && next != end; next.increment(error)) {
    if (next->path().filename().string().starts_with("checkpoint-")) {
      found.push_back(next->path());
    }
  }
  for (const fs::path& each : found) {
    if (!error) {
      fs::remove_all(each, error);
    }
  }
  if (error) {
    throw FileError(folder, "holds a checkpoint that cannot be removed: " + error.message());
  }
}

std::string shown(const char* what, double number) {
  char text[64];
  std::snprintf(text, sizeof text, "%s %.4f", what, number);
  return text;
}

/// Throws `Interrupted` where a signal asked to stop.
TrainingResult train(Trainer& trainer) {
  const StopSignals::Watch watch(trainer);
  TrainingResult result = trainer.train();
  if (result.interrupted) {
    throw Interrupted();
  }
  return result;
}

/// Writes what was trained into a folder that can be loaded.
void save(const SweepContext& context, const SweepRun& run, CausalLM model, const fs::path& folder) {
  const std::string& base = context.flags.model.model;
  if (run.method->options != nullptr) {
    save_adapter(*model, folder, SaveAdapterOptions().base_model(base));
  } else {
    save_model(*model, folder);
    copy_companion_files(base, folder);
  }
  write_chat_template(context.data.prompts, context.data.has_chats, folder);
}

/// What the trained model answers. Merging is undone.
Json answers(
    const SweepContext& context, CausalLM model, bool mergeable, int64_t steps, const OnRunProgress& on_progress) {
  const auto look = [&](int64_t done) {
    if (StopSignals::received() != 0) {
      throw Interrupted();
    }
    on_progress(steps, "answers " + std::to_string(done) + "/" + std::to_string(context.evaluation.size()));
  };
  if (!context.flags.merge || !mergeable) {
    return context.evaluation.measure(model, look);
  }
  merge_adapters(*model);
  try {
    Json results = context.evaluation.measure(model, look);
    unmerge_adapters(*model);
    return results;
  } catch (...) {
    unmerge_adapters(*model);
    throw;
  }
}

/// What the start took: where it was only read, what it took the process that made it.
double start_seconds(const Start& start, const fs::path& run_file) {
  std::error_code error;
  if (!start.restored() || !fs::exists(run_file, error)) {
    return start.seconds();
  }
  return JsonObject::read(run_file).number("start_s", start.seconds());
}

MethodSettings method_settings(const SweepFlags& flags, const SweepRun& run) {
  const AdapterFlags& adapter = flags.adapter;
  return {
      .rank = run.rank,
      .alpha = run.alpha.at(run.rank),
      .dropout = adapter.dropout,
      .dora_dropout = adapter.dora_dropout,
      .target_modules = adapter.targets()};
}

void add_hook(Trainer& trainer, const SweepFlags& flags, const SweepRun& run) {
  if (run.method->hook != nullptr) {
    trainer.add_hook(run.method->hook(method_settings(flags, run)));
  }
}

} // namespace

Trainee::Trainee(const SweepContext& context, const SweepRun& run, const fs::path& folder) : model_(context.base) {
  torch::manual_seed(static_cast<uint64_t>(run.seed));
  if (run.method->options != nullptr) {
    attach(context, run, folder);
  } else {
    model_ = load_whole(context.flags);
  }
  model_->checkpointing = context.flags.training.settled_checkpointing();
  const auto why = !context.flags.training.cuda_graph ? std::nullopt
      : run.method->hook != nullptr ? std::make_optional<std::string>("it does more at a step than graphs hold")
                                    : why_not_captured(model_);
  if (why) {
    if (start_) {
      detach_adapters(*model_);
    }
    throw UsageError("--cuda-graph: " + run.method->name + ": " + *why);
  }
}

void Trainee::attach(const SweepContext& context, const SweepRun& run, const fs::path& folder) {
  const AdapterOptions options = run.method->options(method_settings(context.flags, run));
  StartFlags flags = context.flags.start;
  flags.init = run.method->init;
  flags.follow(run.lr, context.flags.training.warmup_steps);
  if (folder.empty()) { // its time is measured, and one batch shows what a start takes
    flags.gora_batches = flags.capture_batches = 1;
  }
  Start start(flags, folder.empty() ? fs::path() : folder / kStartFile, /*goes_on=*/true);
  if (!folder.empty()) {
    start.share(context.statistics);
  }
  TrainingFlags training = context.flags.training;
  training.seed = run.seed;
  start.attach(
      model_, options, context.data.train.examples, training.trainer_options().batches(),
      [](int64_t /*done*/, int64_t /*of*/) {
        if (StopSignals::received() != 0) {
          throw Interrupted();
        }
      });
  start_.emplace(std::move(start));
}

Trainee::~Trainee() {
  if (start_) {
    detach_adapters(*model_);
  }
}

TrainerOptions trainer_options(
    const SweepFlags& flags, const SweepRun& run, const fs::path& folder, const CausalLM& model) {
  TrainingFlags own = flags.training;
  own.lr = run.lr;
  own.lr_ratio_b = run.method->lr_ratio_b != 1.0 ? run.method->lr_ratio_b : own.lr_ratio_b;
  own.optimizer = run.method->optimizer;
  own.prepare_optimizer(*model, flags.clip_given);
  own.seed = run.seed;
  own.output = folder.string();
  own.resume = !folder.empty();
  if (folder.empty()) {
    own.save_every = 0;
  } else if (own.save_every == 0 && !flags.tasks.empty()) {
    own.save_every = kMaxCount; // at the last step: the answers that follow may be stopped
  }
  return own.trainer_options();
}

StepCost measure_step(const SweepContext& context, const SweepRun& run) {
  const Trainee trainee(context, run, "");
  Trainer trainer(
      trainee.model(), context.data.train.examples,
      trainer_options(context.flags, run, "", trainee.model()).max_steps(kMeasuredSteps).eval_every(0));
  context.flags.training.check_reach(trainer.parameters(), run.method->name);
  add_hook(trainer, context.flags, run);
  const StopSignals::Watch watch(trainer);
  StepCost cost;
  const BatchShape batch = largest_batch(trainer.examples(), context.flags.training.trainer_options().batches());
  cost.tensors_mib =
      estimate_memory(trainee.model(), batch, /*validation=*/true, trainer.optimizer().state_bytes()).total() /
      (1 << 20);
  trainer.set_callback(
      [&](const StepMetrics& metrics) { cost.seconds = static_cast<double>(metrics.tokens) / metrics.tokens_per_s; });
  try {
    trainer.train();
  } catch (const NotFiniteError&) { // the run itself will say so
  }
  if (StopSignals::received() != 0) {
    throw Interrupted();
  }
  return cost;
}

bool is_finished(const fs::path& folder) {
  std::error_code error;
  const fs::path file = folder / "run.json";
  return fs::exists(file, error) && JsonObject::read(file).boolean("finished", false);
}

void carry_out(
    const SweepContext& context, const SweepRun& run, const fs::path& path, const OnRunProgress& on_progress) {
  RunFolder folder(path, /*resume=*/true, {});
  if (folder.finished()) {
    remove_checkpoints(path);
    return;
  }
  reset_peak_memory(context.base->device());
  const Trainee trainee(context, run, path);
  const CausalLM model = trainee.model();
  Trainer trainer(model, context.data.train.examples, trainer_options(context.flags, run, path, model));
  trainer.set_validation(context.data.eval.examples);
  Patience patience;
  trainer.set_save_error([&patience](const FileError& error) { return patience.try_again(error); });
  trainer.set_fingerprint({{"run", run_json(run).dump()}, {"common", context.common.dump()}});
  add_hook(trainer, context.flags, run);
  const int64_t restored = trainer.restore();
  Json record{{"command", "sweep"}, {"finished", false}, {"run", run_json(run)}, {"config", context.common}};
  if (trainee.start()) {
    trainee.start()->require_kept(restored);
    record["start_s"] = start_seconds(*trainee.start(), path / "run.json");
    if (!trainee.start()->note().empty()) {
      record["start"] = trainee.start()->note();
    }
  }
  folder.begin(record, restored);
  if (trainee.start()) {
    patience.insist([&] { trainee.start()->keep(); });
  }
  Totals totals;
  int64_t steps = restored;
  trainer.set_callback([&](const StepMetrics& metrics) {
    if (metrics.tokens == 0) { // a validation that an earlier process left off
      patience.insist([&] { folder.add_validation(*metrics.eval_loss); });
      return;
    }
    totals.add(metrics);
    steps = metrics.step;
    patience.insist([&] { folder.append(metrics_line(metrics)); });
    on_progress(steps, shown("loss", metrics.loss));
  });
  const auto begin = std::chrono::steady_clock::now();
  try {
    const TrainingResult result = train(trainer);
    const std::chrono::duration<double> duration = std::chrono::steady_clock::now() - begin;
    record["results"] = results_json(model, result, totals, restored, duration.count());
    record["results"]["tasks"] =
        answers(context, model, run.method->options != nullptr && run.method->is_mergeable, steps, on_progress);
  } catch (const NotFiniteError&) {
    record["results"] = {{"diverged_after_step", trainer.step()}};
  }
  check_mapped_files();
  record["finished"] = true;
  patience.insist([&] {
    StagedFolder staged(path);
    if (context.flags.keep_weights && !record["results"].contains("diverged_after_step")) {
      save(context, run, model, staged.path());
    }
    staged.commit();
    folder.write_run(record);
  });
  remove_checkpoints(path);
}

} // namespace rora::cli
