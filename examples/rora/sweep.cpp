#include "command.h"
#include "lazy_tokenizer.h"
#include "output_folder.h"
#include "patience.h"
#include "stop_signals.h"
#include "sweep_report.h"
#include "sweep_training.h"
#include "training_run.h"

#include "common/progress_bar.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/folder_lock.h>
#include <rora/checkpoint/json_object.h>
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
  if (!resume && fs::exists(path / "plan.json")) {
    throw FileError(path, "already holds a sweep (plan.json): give --resume or another folder");
  }
}

/// Throws `FormatError` that names the first thing that the sweep of `file` had otherwise.
void require_same(const fs::path& file, const Json& now) {
  const std::string text = read_file(file);
  JsonObject::parse(file, text); // refuses what is no object
  const Json before = Json::parse(text);
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

/// The sweep: what is planned, and where it stands.
class Sweep {
 public:
  Sweep(SweepFlags& flags, const Flags& given)
      : flags_(flags),
        axes_(flags.axes()),
        common_(common_flags(given)),
        runs_(axes_.runs()),
        output_(flags.training.output),
        tokenizer_([this] { return flags_.model.load_tokenizer(); }) {}

  int run() {
    check_folder(output_, flags_.training.resume);
    if (!flags_.training.dry_run) {
      make_folder();
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
      measure_base();
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
    return output_ / "runs" / run.name();
  }

  void make_folder() {
    std::error_code error;
    fs::create_directories(output_, error);
    if (error) {
      throw FileError(output_, "cannot be made: " + error.message());
    }
    lock_.emplace(output_);
  }

  void load() {
    TrainingFlags& training = flags_.training;
    const DecoderOptions config = read_model_config(flags_.model.model);
    data_ = load_training_data(training, training.read_data(), tokenizer_, config.vocab_size(), flags_.model.model);
    evaluation_.emplace(flags_, data_.prompts, tokenizer_);
    model_ = flags_.model.load();
    // The smallest adapter there is: what all runs share is compared.
    const SweepRun probe{&find_method("methods", "lora"), AlphaRule(), 1, axes_.lrs[0], axes_.seeds[0]};
    const Trainee trainee(context(), probe);
    Trainer trainer(trainee.model(), data_.train.examples, trainer_options(flags_, probe, output_));
    trainer.set_validation(data_.eval.examples);
    total_steps_ = trainer.total_steps();
    identity_ = common_;
    identity_["examples"] = trainer.fingerprint().at("data");
    identity_["validation-examples"] = trainer.fingerprint().at("validation");
    identity_["test-files"] = evaluation_->fingerprint();
    identity_["weights"] = trainer.fingerprint().at("weights");
    if (training.resume && fs::exists(output_ / "plan.json")) {
      require_same(output_ / "plan.json", identity_);
    }
  }

  SweepContext context() const {
    return {flags_, common_, model_, data_, *evaluation_};
  }

  /// Seconds of a run's validations and answers, by a batch of each that is thrown away.
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
    const int64_t an_epoch = std::max<int64_t>(1, data_.train.size() / flags_.training.batch_size);
    return validation * static_cast<double>(1 + total_steps_ / (every > 0 ? every : an_epoch));
  }

  void print_plan() {
    std::map<std::string, std::pair<const SweepRun*, int64_t>> left; // by method: the widest run and how many
    for (const SweepRun& run : runs_) {
      if (is_finished(folder_of(run))) {
        ++finished_;
        continue;
      }
      auto& [widest, count] = left[run.method->name];
      widest = widest == nullptr || run.rank > widest->rank ? &run : widest;
      ++count;
    }
    std::cout << "data: " << data_.train.size() << " examples, validation: " << data_.eval.size()
              << "\nsweep: " << runs_.size() << " runs of " << total_steps_ << " steps";
    if (finished_ > 0) {
      std::cout << ", " << finished_ << " of them finished";
    }
    std::cout << std::endl;
    if (left.empty()) {
      return;
    }
    const double examination = measure_examination();
    double seconds = 0.0;
    for (const auto& [name, runs] : left) {
      const double step = measure_step(context(), *runs.first);
      const double one = step * static_cast<double>(total_steps_) + examination;
      seconds += one * static_cast<double>(runs.second);
      std::cout << "  " << name << ": " << runs.second << " runs, about " << examples::format_duration(one)
                << " each\n";
    }
    std::cout << "about " << examples::format_duration(seconds)
              << " in all, by a few steps at the highest rank and a batch of validation"
              << (flags_.tasks.empty() ? "" : "; the answers of --tasks come on top") << std::endl;
  }

  void write_plan() {
    patience_.insist([&] { write_file(output_ / "plan.json", identity_.dump(2) + "\n"); });
  }

  /// What the model reaches without training.
  void measure_base() {
    const fs::path file = output_ / "base.json";
    if (fs::exists(file)) {
      return;
    }
    examples::ProgressBar bar("before training", data_.eval.size() + evaluation_->size());
    const auto look = [&](int64_t done) {
      if (StopSignals::received() != 0) {
        throw Interrupted();
      }
      bar.update(done);
    };
    Json base;
    base["eval_loss"] = evaluate_perplexity(model_, data_.eval.examples, flags_.training.batch_size, look).loss;
    base["tasks"] = evaluation_->measure(model_, [&](int64_t done) { look(data_.eval.size() + done); });
    patience_.insist([&] { write_file(file, base.dump(2) + "\n"); });
  }

  void train_all() {
    examples::ProgressBar bar("sweep", std::ssize(runs_) * total_steps_, finished_ * total_steps_);
    int64_t number = 0;
    int64_t done = 0;
    for (const SweepRun& run : runs_) {
      ++number;
      const fs::path folder = folder_of(run);
      const bool was_finished = is_finished(folder);
      const std::string place = std::to_string(number) + "/" + std::to_string(runs_.size()) + " " + run.name();
      carry_out(context(), run, folder, [&](int64_t steps, const std::string& detail) {
        bar.update(done + steps, place + " " + detail);
      });
      done += total_steps_;
      results_.push_back(read_result(folder, run));
      if (!was_finished) {
        bar.clear();
        std::cout << place << ": " << summary(results_.back()) << std::endl;
      }
    }
    bar.finish();
  }

  std::string summary(const SweepResult& result) const {
    if (result.diverged_at) {
      return "diverged at step " + std::to_string(*result.diverged_at);
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
    SweepReport report{axes_, common_, flags_.tasks, flags_.within, read_reached(output_ / "base.json"), results_};
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
  std::optional<FolderLock> lock_;
  TrainingData data_;
  std::optional<SweepEvaluation> evaluation_;
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
