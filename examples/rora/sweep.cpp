#include "adapter_flags.h"
#include "command.h"
#include "lazy_tokenizer.h"
#include "output_folder.h"
#include "patience.h"
#include "positions.h"
#include "stop_signals.h"
#include "sweep_report.h"
#include "sweep_training.h"
#include "training_run.h"

#include "common/progress_bar.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iostream>
#include <map>
#include <system_error>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPlanFile = "plan.json";
constexpr const char* kDay = "day"; ///< a key of it
constexpr const char* kBaseFile = "base.json";
constexpr const char* kReferenceFile = "reference.json";
constexpr const char* kRunsFolder = "runs";
constexpr const char* kStatisticsFile = "statistics.safetensors";

/// Makes the sweep's folder, or finds the one to go on with. Throws `FileError` for one that holds something else, and
/// without `resume` for one that holds a sweep.
void check_folder(const fs::path& path, bool resume) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_directory(status)) {
    throw FileError(path, "is not a folder");
  }
  require_neither_model_nor_adapter(path);
  if (fs::exists(path / "run.json")) {
    throw FileError(path, "holds a run of another command (run.json): give another folder");
  }
  const bool planned = fs::exists(path / kPlanFile);
  if (!resume && planned) {
    throw FileError(path, "already holds a sweep (plan.json): give --resume or another folder");
  }
  for (const char* const name : {kBaseFile, kReferenceFile, kRunsFolder}) {
    if (!planned && fs::exists(path / name)) {
      throw FileError(
          path, std::string("holds part of a sweep (") + name + ") without its plan.json: give another folder");
    }
  }
}

/// Throws `FormatError` that names the first thing that the sweep of `file` had otherwise.
void require_same(const fs::path& file, const Json& now) {
  const Json before = read_json(file);
  for (const auto& [name, value] : now.items()) {
    const Json was = before.value(name, Json());
    if (was != value) {
      throw FormatError(
          file,
          "'" + name + "' was " + was.dump() + " and is now " + value.dump() +
              ": new runs would not be of one sweep with the finished ones");
    }
  }
}

/// Throws `FormatError` for a reference that could not read the same token ids.
void require_same_vocabulary(const fs::path& reference, const DecoderOptions& config) {
  const int64_t size = read_model_config(reference).vocab_size();
  if (size != config.vocab_size()) {
    throw FormatError(
        reference / "config.json",
        "'vocab_size' is " + std::to_string(size) + ", and --model has " + std::to_string(config.vocab_size()) +
            ": it is not the model that was pruned");
  }
}

/// The sweep: what is planned, and where it stands.
class Sweep {
 public:
  Sweep(SweepFlags& flags, const Flags& given)
      : flags_(flags),
        axes_(flags.axes(given)),
        common_(common_flags(given, flags.start)),
        runs_(axes_.runs()),
        output_(flags.training.output),
        tokenizer_([this] { return flags_.model.load_tokenizer(); }) {}

  int run() {
    check_folder(output_, flags_.training.resume);
    if (!flags_.training.dry_run) {
      folder_.emplace(output_);
    }
    load();
    StopSignals signals;
    std::signal(SIGPIPE, SIG_IGN); // a sweep goes on without the reader of its output
    try {
      print_plan();
      if (flags_.training.dry_run) {
        return 0;
      }
      write_plan();
      measure_untrained();
      train_all();
    } catch (const Interrupted&) {
      std::cerr << "rora sweep: interrupted; --resume goes on with what " << output_.string() << " holds\n";
      return 128 + StopSignals::received();
    }
    report();
    return 0;
  }

 private:
  fs::path folder_of(const SweepRun& run) const {
    return output_ / kRunsFolder / run.name();
  }

  void load() {
    TrainingFlags& training = flags_.training;
    const bool goes_on = training.resume && fs::exists(output_ / kPlanFile);
    if (goes_on && !training.prompts.chat_date) { // chats tell the day that the sweep began on
      const std::string day = read_json(output_ / kPlanFile).value(kDay, std::string());
      training.prompts.chat_date = day.empty() ? std::nullopt : std::optional<std::string>(day);
    }
    const DecoderOptions config = flags_.model.read_config();
    if (flags_.reference_model) {
      require_same_vocabulary(*flags_.reference_model, config);
    }
    data_ = load_training_data(training, training.read_data(), tokenizer_, config.vocab_size(), flags_.model.model);
    evaluation_.emplace(flags_, data_.prompts, tokenizer_);
    statistics_.emplace(output_ / kStatisticsFile);
    model_ = flags_.model.load();
    leave_room(model_, kMostRankBesideWeights); // the same for all runs: its width may decide their last digits
    // The smallest adapter there is, whatever is swept: what all runs share is compared.
    attach_adapters(
        *model_, AdapterOptions().low_rank(LowRankOptions().rank(1)).target_modules(ModuleSelection::every_linear()));
    const SweepRun probe{&methods()[0], AlphaRule(), 1, axes_.lrs[0], axes_.seeds[0]};
    Trainer trainer(model_, data_.train.examples, trainer_options(flags_, probe, output_, model_));
    trainer.set_validation(data_.eval.examples);
    total_steps_ = trainer.total_steps();
    identity_ = common_;
    identity_["examples"] = trainer.fingerprint().at("data");
    identity_["validation-examples"] = trainer.fingerprint().at("validation");
    identity_["test-files"] = evaluation_->fingerprint();
    identity_["weights"] = trainer.fingerprint().at("weights");
    detach_adapters(*model_);
    if (goes_on) {
      require_same(output_ / kPlanFile, identity_);
    }
  }

  SweepContext context() const {
    return {flags_, common_, model_, data_, *evaluation_, *statistics_};
  }

  /// Seconds of a run's validations, by one batch.
  double measure_examination() {
    const auto seconds_of = [](const std::function<void()>& work) {
      const auto begin = std::chrono::steady_clock::now();
      work();
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    const int64_t batch = std::min<int64_t>(flags_.training.batch_size, data_.eval.size());
    const std::vector<Example> few(data_.eval.examples.begin(), data_.eval.examples.begin() + batch);
    const double validation = seconds_of([&] { evaluate_perplexity(model_, few, batch); }) *
        static_cast<double>(data_.eval.size()) / static_cast<double>(batch);
    const int64_t every = flags_.training.eval_every;
    const int64_t an_epoch =
        std::max<int64_t>(1, data_.train.size() / (flags_.training.batch_size * flags_.training.grad_accum));
    return validation * static_cast<double>(1 + total_steps_ / (every > 0 ? every : an_epoch));
  }

  /// Throws `FormatError` for a finished run that was made by other flags.
  void require_same_config(const fs::path& file) const {
    if (read_json(file).value("config", Json()) != common_) {
      throw FormatError(file, "'config' is not that of this sweep: the run was made by other flags");
    }
  }

  void print_plan() {
    std::map<std::string, std::pair<const SweepRun*, int64_t>> left; // by method: the widest run and how many
    for (const SweepRun& run : runs_) {
      if (is_finished(folder_of(run))) {
        require_same_config(folder_of(run) / "run.json");
        ++finished_;
        continue;
      }
      auto& [widest, count] = left[run.method->name];
      widest = widest == nullptr || run.rank > widest->rank ? &run : widest;
      ++count;
    }
    print_data(data_, flags_.training, tokenizer_.loaded());
    warn_of_warmup(flags_.training, total_steps_);
    warn_beyond_positions(longest(data_.train.examples), model_->options, std::cout);
    std::cout << "sweep: " << runs_.size() << (runs_.size() == 1 ? " run of " : " runs of ") << total_steps_
              << " steps";
    if (finished_ > 0) {
      std::cout << ", " << finished_ << " of them finished";
      if (flags_.keep_weights) {
        std::cout << ", whose weights are kept only where they were then";
      }
    }
    std::cout << std::endl;
    if (left.empty()) {
      return;
    }
    const double examination = measure_examination();
    double seconds = 0.0;
    for (const auto& [name, runs] : left) {
      const StepCost step = measure_step(context(), *runs.first);
      const double one = step.seconds * static_cast<double>(total_steps_) + examination;
      seconds += one * static_cast<double>(runs.second);
      std::cout << "  " << name << ": " << runs.second << (runs.second == 1 ? " run" : " runs") << ", about "
                << examples::format_duration(one) << " and " << step.tensors_mib << " MiB of tensors each\n";
    }
    std::cout << "about " << examples::format_duration(seconds)
              << " in all, by a few steps at the highest rank and a batch of validation"
              << (flags_.tasks.empty() ? "" : "; the answers of --tasks come on top") << std::endl;
  }

  void write_plan() {
    Json plan = identity_;
    plan[kDay] = data_.prompts.day;
    patience_.insist([&] { write_file(output_ / kPlanFile, plan.dump(2) + "\n"); });
  }

  /// What a model reaches without training: measured once, and kept in `file`.
  void measure_untrained(const fs::path& file, const std::string& label, const std::function<CausalLM()>& load_model) {
    if (fs::exists(file)) {
      return;
    }
    examples::ProgressBar bar(label, data_.eval.size() + evaluation_->size());
    const auto look = [&](int64_t done) {
      if (StopSignals::received() != 0) {
        throw Interrupted();
      }
      bar.update(done);
    };
    const CausalLM model = load_model();
    Json reached;
    reached["eval_loss"] = evaluate_perplexity(model, data_.eval.examples, flags_.training.batch_size, look).loss;
    reached["tasks"] = evaluation_->measure(model, [&](int64_t done) { look(data_.eval.size() + done); });
    patience_.insist([&] { write_file(file, reached.dump(2) + "\n"); });
  }

  void measure_untrained() {
    measure_untrained(output_ / kBaseFile, "before training", [this] { return model_; });
    if (flags_.reference_model) {
      measure_untrained(output_ / kReferenceFile, "reference model", [this] {
        ModelFlags reference = flags_.model;
        reference.model = *flags_.reference_model;
        return reference.load();
      });
    }
  }

  void train_all() {
    examples::ProgressBar bar("sweep", std::ssize(runs_) * total_steps_, finished_ * total_steps_);
    int64_t number = 0;
    int64_t done = finished_ * total_steps_;
    for (const SweepRun& run : runs_) {
      ++number;
      const fs::path folder = folder_of(run);
      const bool was_finished = is_finished(folder);
      const std::string place = std::to_string(number) + "/" + std::to_string(runs_.size()) + " " + run.name();
      carry_out(context(), run, folder, [&](int64_t steps, const std::string& detail) {
        bar.update(done + steps, place + " " + detail);
      });
      results_.push_back(read_result(folder, run));
      if (!was_finished) {
        done += total_steps_;
        bar.clear();
        std::cout << place << ": " << summary(results_.back()) << std::endl;
      }
    }
    bar.finish();
    statistics_->remove();
  }

  std::string summary(const SweepResult& result) const {
    if (result.diverged_after) {
      return "diverged after step " + std::to_string(*result.diverged_after);
    }
    char text[64];
    std::snprintf(text, sizeof text, "validation loss %.4f", result.reached.eval_loss);
    std::string line = text;
    for (const auto& [task, score] : result.reached.tasks) {
      std::snprintf(text, sizeof text, ", %s %.1f%%", task.c_str(), 100.0 * score.accuracy);
      line += text;
    }
    return line + ", " + examples::format_duration(result.seconds);
  }

  void report() {
    SweepReport report;
    report.axes = axes_;
    report.common = common_;
    report.tasks = flags_.tasks;
    report.within = flags_.within;
    report.total_steps = total_steps_;
    report.base = read_reached(output_ / kBaseFile);
    report.results = results_;
    if (flags_.reference_model) {
      report.reference = read_reached(output_ / kReferenceFile);
    }
    std::cout << "\n" << sweep_text(report) << "\n";
    patience_.insist([&] { write_report(report, output_); });
    std::cout << "written to " << output_.string() << ": sweep.html, sweep.json, sweep.csv, curves.csv, times.csv"
              << std::endl;
  }

  SweepFlags& flags_;
  SweepAxes axes_;
  Json common_;
  std::vector<SweepRun> runs_;
  fs::path output_;
  LazyTokenizer tokenizer_;
  std::optional<StagedFolder> folder_; ///< keeps others out, and leaves no folder behind where nothing was written
  TrainingData data_;
  std::optional<SweepEvaluation> evaluation_;
  std::optional<SharedStatistics> statistics_;
  CausalLM model_{nullptr};
  Json identity_;
  int64_t total_steps_ = 0;
  int64_t finished_ = 0;
  Patience patience_;
  std::vector<SweepResult> results_;
};

} // namespace

Run add_sweep(Flags& flags) {
  auto arguments = std::make_shared<SweepFlags>();
  arguments->add(flags);
  return [arguments, &flags] {
    flags.require_utf8();
    arguments->model.check_cuda_graph(arguments->training.cuda_graph);
    arguments->model.open_device();
    return Sweep(*arguments, flags).run();
  };
}

} // namespace rora::cli
