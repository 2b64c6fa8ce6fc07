#include "sweep_evaluation.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/evaluation/choice.h>
#include <rora/evaluation/generation_task.h>

#include <c10/util/Exception.h>

#include <cmath>

namespace rora::cli {

SweepEvaluation::SweepEvaluation(const SweepFlags& flags, const Prompts& prompts, LazyTokenizer& tokenizer)
    : flags_(flags), tasks_(flags.task_list()) {
  if (tasks_.empty()) {
    return;
  }
  tokenizer_ = tokenizer.get();
  chat_template_ = prompts.of_prompts();
  generation_ = flags.generation.options(flags.model, *tokenizer_);
  if (chat_template_) {
    add_stop(generation_, end_of_message(*tokenizer_, *chat_template_));
  }
  for (const std::string& name : flags.test_files()) {
    TestFile file{name, read_records(name, flags.training.prompts.column_names())};
    if (flags.limit > 0 && flags.limit < std::ssize(file.records)) {
      file.records.resize(static_cast<size_t>(flags.limit));
    }
    for (const Record& record : file.records) {
      if (record.kind != RecordKind::kCompletion || !gold_answer(record)) {
        throw FormatError(name, record.place() + " asks for no answer that --tasks could read");
      }
    }
    files_.push_back(std::move(file));
  }
}

int64_t SweepEvaluation::size() const {
  int64_t sum = 0;
  for (const TestFile& file : files_) {
    sum += std::ssize(file.records);
  }
  return sum * std::ssize(tasks_);
}

Json SweepEvaluation::measure(CausalLM model, const std::function<void(int64_t)>& on_progress) const {
  Json results = Json::object();
  int64_t before = 0;
  for (const SweepTask task : tasks_) {
    Json of_files = Json::object();
    double accuracy = 0.0, variance = 0.0, unparsed = 0.0;
    int64_t count = 0;
    const auto share = 1.0 / static_cast<double>(files_.size());
    for (const TestFile& file : files_) {
      const auto report = [&](int64_t done) { on_progress(before + done); };
      const int64_t batch_size = flags_.training.batch_size;
      AnswerScore score;
      try {
        score = task == SweepTask::kChoice
            ? evaluate_choice(model, *tokenizer_, file.records, batch_size, report, chat_template_).score
            : evaluate_generation(
                  model, *tokenizer_, file.records,
                  GenerationTaskOptions().batch_size(batch_size).generation(generation_).chat_template(chat_template_),
                  report)
                  .score;
      } catch (const c10::ValueError& error) {
        throw FormatError(file.name, error.what_without_backtrace()); // a record that asks for no answer
      }
      before += std::ssize(file.records);
      accuracy += share * score.accuracy();
      variance += share * share * score.standard_error() * score.standard_error();
      unparsed += share * score.unparsed_share();
      count += score.count;
      of_files[file.name] = {
          {"accuracy", score.accuracy()},
          {"stderr", score.standard_error()},
          {"unparsed", score.unparsed_share()},
          {"count", score.count}};
    }
    results[task_name(task)] = {
        {"accuracy", accuracy},
        {"stderr", std::sqrt(variance)},
        {"unparsed", unparsed},
        {"count", count},
        {"files", of_files}};
  }
  return results;
}

Json SweepEvaluation::fingerprint() const {
  Json digests = Json::object();
  for (const TestFile& file : files_) {
    digests[file.name] = file_digest(file.name);
  }
  return digests;
}

} // namespace rora::cli
