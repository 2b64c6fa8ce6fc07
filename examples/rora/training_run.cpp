#include "training_run.h"

#include "common/progress_bar.h"
#include "patience.h"
#include "positions.h"
#include "stop_signals.h"
#include "training_results.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/training/memory_bound.h>
#include <rora/training/memory_estimate.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <map>

namespace rora::cli {
namespace {

/// Off a terminal a run prints about so many lines.
constexpr int64_t kPlainLines = 100;

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// A bar on a terminal, plain lines elsewhere.
class TrainingProgress {
 public:
  TrainingProgress(int64_t total, int64_t restored)
      : bar_("training", total, restored), every_(std::max<int64_t>(1, total / kPlainLines)) {}

  void show(const StepMetrics& metrics) {
    const std::string detail = "loss " + fixed(metrics.loss, 4) + " " + fixed(metrics.tokens_per_s, 0) + " tokens/s";
    if (examples::stderr_is_terminal()) {
      bar_.update(metrics.step, detail);
    } else if (metrics.step % every_ == 0 || metrics.step == 1 || metrics.step == metrics.total_steps) {
      std::cout << "step " << metrics.step << "/" << metrics.total_steps << " " << detail << " lr "
                << Json(metrics.lr).dump() << " peak " << metrics.peak_rss_mib << " MiB";
      if (metrics.peak_cuda_mib) {
        std::cout << ", on the GPU " << *metrics.peak_cuda_mib << " MiB";
      }
      std::cout << std::endl;
    }
    if (metrics.eval_loss) {
      bar_.clear();
      std::cout << "step " << metrics.step << "/" << metrics.total_steps << " validation loss "
                << fixed(*metrics.eval_loss, 4) << std::endl;
    }
  }

  void finish() {
    bar_.finish();
  }

 private:
  examples::ProgressBar bar_;
  int64_t every_;
};

Json data_json(const Dataset& data) {
  return {
      {"examples", data.size()},
      {"truncated", data.truncated},
      {"unanswered", data.unanswered},
      {"skipped", data.skipped}};
}

/// Prints the parameters that are trained and the memory that it will need, in MiB.
MemoryEstimate print_plan(
    const CausalLM& model, const Trainer& trainer, const TrainingFlags& flags,
    const std::vector<std::shared_ptr<TrainingHook>>& hooks) {
  const auto counts = count_parameters(*model);
  const BatchShape batch = largest_batch(trainer.examples(), flags.trainer_options().batches());
  std::cout << "trained parameters: " << counts.trainable << " of " << counts.total << " (" << fixed(counts.share(), 4)
            << "%)\nlargest batch: " << batch.rows << " x " << batch.seq << " tokens\nmemory of tensors (MiB):\n";
  int64_t state = trainer.optimizer().state_bytes();
  for (const auto& hook : hooks) {
    state += hook->state_bytes(trainer.parameters());
  }
  const MemoryEstimate estimate = estimate_memory(model, batch, !flags.eval_data.empty(), state);
  const auto row = [](const char* name, int64_t bytes) {
    char line[80];
    std::snprintf(line, sizeof line, "  %-28s %10.1f\n", name, static_cast<double>(bytes) / (1 << 20));
    std::cout << line;
  };
  row("frozen weights", estimate.weights);
  row(model->device().is_cuda() ? "room beside weights" : "packed weights", estimate.packed);
  row("trained parameters", estimate.trained);
  row("gradients", estimate.gradients);
  row("optimiser state", estimate.optimizer);
  row("best parameters", estimate.best);
  row("activations", estimate.activations);
  row("temporaries", estimate.temporaries);
  row("total", estimate.total());
  if (model->device().is_cpu()) {
    row("of the process, without data", estimate.process());
  }
  std::cout << "kept for backward (bytes a token):\n";
  for (const KeptForBackward& each : estimate.kept) {
    if (each.bytes > 0) {
      char line[80];
      std::snprintf(line, sizeof line, "  %-34s %8lld\n", each.what, static_cast<long long>(each.bytes));
      std::cout << line;
    }
  }
  std::cout << std::flush;
  return estimate;
}

/// Its shape and its first row's ids and labels, and text where there is a tokenizer.
void print_first_batch(const std::vector<Example>& examples, const TrainingFlags& flags, const Tokenizer* tokenizer) {
  const auto plan = plan_epoch(examples, flags.trainer_options().batches(), 0);
  const Batch batch = make_batch(examples, plan[0]);
  std::cout << "first batch: " << batch.input_ids.size(0) << " x " << batch.input_ids.size(1) << ", " << batch.tokens
            << " tokens, " << batch.labelled_tokens << " labelled\n";
  const Example& first = examples[static_cast<size_t>(plan[0][0][0])];
  std::cout << "  input_ids " << Json(first.input_ids).dump() << "\n  labels    " << Json(first.labels).dump() << "\n";
  if (tokenizer != nullptr) {
    std::cout << "  text      " << Json(tokenizer->decode(first.input_ids)).dump() << "\n";
  }
}

} // namespace

TrainingData load_training_data(
    const TrainingFlags& flags, const std::vector<RecordFile>& records, LazyTokenizer& tokenizer, int64_t vocab_size,
    const std::filesystem::path& model, const std::optional<std::string>& adapter) {
  const std::vector<RecordFile> eval_records =
      read_record_files({flags.eval_data.begin(), flags.eval_data.end()}, flags.prompts.column_names());
  const auto any = [&](const auto& holds) {
    const auto in_files = [&](const std::vector<RecordFile>& files) {
      return std::any_of(files.begin(), files.end(), [&](const RecordFile& file) {
        return std::any_of(file.records.begin(), file.records.end(), holds);
      });
    };
    return in_files(records) || in_files(eval_records);
  };
  TrainingData data;
  if (any([](const Record& record) { return record.kind != RecordKind::kTokenized; })) {
    PromptFlags asked = flags.prompts;
    if (flags.resume && !asked.chat_date) {
      asked.chat_date = day_of_run(flags.output);
    }
    data.prompts = asked.resolve(model, adapter, tokenizer.get());
    const bool has_chat = any([](const Record& record) { return record.kind == RecordKind::kChat; });
    guess_chat_template(data.prompts, has_chat, *tokenizer.get(), std::cout);
  }
  const bool has_text = any(
      [](const Record& record) { return record.kind == RecordKind::kCompletion || record.kind == RecordKind::kText; });
  if (flags.prompts.prompt_format == PromptFormat::kAuto && data.prompts.chat_template && !has_text) {
    data.prompts.format = PromptFormat::kChat; // an adapter of chats alone is to be talked to in chats
  }
  data.has_chats = any([&](const Record& record) { return data.prompts.is_chat(record); });
  const DatasetOptions options = flags.dataset_options(vocab_size, data.prompts);
  const auto ask = [&tokenizer] { return tokenizer.get(); };
  data.train = encode_records(records, ask, options);
  if (!flags.eval_data.empty()) {
    data.eval = encode_records(eval_records, ask, options);
  }
  return data;
}

void print_data(const TrainingData& data, const TrainingFlags& flags, const Tokenizer* tokenizer) {
  std::cout << "data: " << data.train.size() << " examples, " << data.train.truncated << " truncated to "
            << flags.max_length << " tokens, " << data.train.unanswered << " left out without an answer once cut, "
            << data.train.skipped << " empty ones skipped";
  if (!flags.eval_data.empty()) {
    std::cout << "; validation: " << data.eval.size();
  }
  if (tokenizer != nullptr) {
    std::cout << "\nprompts: " << data.prompts.text();
  }
  for (const Dataset* each : {&data.train, &data.eval}) {
    if (each->unwritten > 0) {
      std::cout << "\nof " << each->unwritten
                << " chats the template leaves a message out; the first: " << each->first_unwritten;
    }
  }
  std::cout << "\n";
}

void warn_of_warmup(const TrainingFlags& flags, int64_t steps) {
  if (flags.warmup_steps >= steps && steps > 0) {
    std::cout << "the learning rate rises for " << flags.warmup_steps << " steps (--warmup-steps) and the run has "
              << steps << ": it ends before --lr is reached" << std::endl;
  }
}

void write_chat_template(const Prompts& prompts, bool has_chats, const std::filesystem::path& folder) {
  if (has_chats) {
    const std::optional<std::string> joined = prompts.chat_template->joined_source();
    if (!joined) {
      std::cerr << prompts.chat_template->origin()
                << ": the template of chats with tools is not kept beside what is trained: it marks what is generated, "
                   "and the other does not, or the other way round\n";
    }
    write_file(folder / "chat_template.jinja", joined.value_or(prompts.chat_template->source()));
  }
}

/// Sets what the layers keep. Throws `UsageError` where that would be as much as without the flag.
void set_checkpointing(CausalLM model, Checkpointing checkpointing) {
  const auto numbers_of_token = [&](Checkpointing each) {
    model->checkpointing = each;
    int64_t numbers = 0;
    for (const LayerMemory& layer : model->layer_memory()) {
      numbers += layer.all.numbers();
    }
    return numbers;
  };
  if (checkpointing == Checkpointing::kSelective &&
      numbers_of_token(Checkpointing::kNone) == numbers_of_token(Checkpointing::kSelective)) {
    throw UsageError("--checkpointing selective: nothing that is kept for what is trained is cheap to form again");
  }
  model->checkpointing = checkpointing;
}

int TrainingRun::run(RunFolder& folder, const Tokenizer* tokenizer) {
  set_checkpointing(model, training->settled_checkpointing());
  if (const auto why = training->cuda_graph ? why_not_captured(model) : std::nullopt) {
    throw UsageError("--cuda-graph: " + *why);
  }
  print_data(data, *training, tokenizer);
  Json record;
  record["command"] = command;
  record["finished"] = false;
  record["config"] = flags->resolved();
  if (tokenizer != nullptr) {
    record["prompts"] = data.prompts.json();
  }
  const Json train_counts = data_json(data.train);
  const Json eval_counts = training->eval_data.empty() ? Json(nullptr) : data_json(data.eval);
  Trainer trainer(model, std::move(data.train.examples), training->trainer_options());
  training->check_reach(trainer.parameters());
  const MemoryEstimate memory = print_plan(model, trainer, *training, hooks);
  if (!training->eval_data.empty()) {
    trainer.set_validation(std::move(data.eval.examples));
  }
  trainer.set_save(save);
  Patience patience;
  trainer.set_save_error([&patience](const FileError& error) { return patience.try_again(error); });
  std::map<std::string, std::string> fingerprint;
  for (const std::string& name : identity) {
    fingerprint[name] = record["config"].value(name, Json(nullptr)).dump(); // null where another flag excludes it
  }
  trainer.set_fingerprint(fingerprint);
  for (const auto& hook : hooks) {
    trainer.add_hook(hook);
  }
  warn_of_warmup(*training, trainer.total_steps());
  warn_beyond_positions(longest(trainer.examples()), model->options, std::cout);
  const int64_t restored = trainer.restore();
  if (restored > 0) {
    std::cout << "going on from step " << restored << std::endl;
  }
  if (training->dry_run) {
    print_first_batch(trainer.examples(), *training, tokenizer);
    return 0;
  }
  std::signal(SIGPIPE, SIG_IGN); // a run goes on without the reader of its output
  folder.begin(record, restored);
  if (begun) {
    begun(restored);
  }
  TrainingProgress progress(trainer.total_steps(), restored);
  Totals totals;
  MemoryBound bound(memory.process(), memory.activations + memory.temporaries);
  trainer.set_callback([&](const StepMetrics& metrics) {
    if (model->device().is_cpu()) {
      bound.enforce();
    }
    if (metrics.tokens == 0) { // a validation that an earlier process left off
      patience.insist([&] { folder.add_validation(*metrics.eval_loss); });
      return;
    }
    totals.add(metrics);
    patience.insist([&] { folder.append(metrics_line(metrics)); });
    progress.show(metrics);
  });
  const auto begin = std::chrono::steady_clock::now();
  StopSignals signals(&trainer);
  const TrainingResult result = trainer.train();
  const std::chrono::duration<double> duration = std::chrono::steady_clock::now() - begin;
  progress.finish();
  if (result.interrupted) {
    std::cerr << "rora " << command << ": interrupted; a checkpoint of step " << result.steps << " is in "
              << folder.path().string() << ", --resume goes on from it\n";
    return 128 + StopSignals::received();
  }
  record["results"] = results_json(model, result, totals, restored, duration.count());
  record["results"]["data"] = train_counts;
  record["results"]["eval_data"] = eval_counts;
  record["finished"] = true;
  patience.insist([&] {
    StagedFolder staged(folder.path());
    save(staged.path());
    staged.commit();
    folder.write_run(record);
  });
  std::cout << "done: " << result.steps << " steps in " << examples::format_duration(duration.count()) << ", loss "
            << (totals.first_loss ? fixed(totals.final_loss, 4) : "-") << ", written to " << folder.path().string();
  if (result.best_eval_loss) {
    std::cout << ": step " << result.best_step << ", of validation loss " << fixed(*result.best_eval_loss, 4)
              << (result.stopped_early ? "; later ones were no better" : "");
  }
  std::cout << std::endl;
  return 0;
}

} // namespace rora::cli
