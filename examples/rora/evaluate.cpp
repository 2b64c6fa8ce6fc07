#include "command.h"
#include "common/progress_bar.h"
#include "generation_flags.h"
#include "lazy_tokenizer.h"
#include "positions.h"
#include "prompt_flags.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/mapped_files.h>
#include <rora/error.h>
#include <rora/evaluation/choice.h>
#include <rora/evaluation/generation_task.h>
#include <rora/evaluation/perplexity.h>

#include <unistd.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

namespace rora::cli {
namespace {

enum class Task { kPerplexity, kChoice, kGeneration };

struct Arguments {
  ModelFlags model;
  GenerationFlags generation;
  PromptFlags prompts;
  std::string data;
  Task task = Task::kPerplexity;
  int64_t batch_size = 32;
  int64_t limit = 0;
  bool merge = false;
  std::optional<std::string> predictions;
};

template <typename T>
void keep_first(std::vector<T>& items, int64_t limit) {
  if (limit > 0 && limit < static_cast<int64_t>(items.size())) {
    items.resize(static_cast<size_t>(limit));
  }
}

CausalLM load_model(const Arguments& arguments) {
  CausalLM model = arguments.model.load();
  if (arguments.merge) {
    merge_adapters(*model);
  }
  return model;
}

Json perplexity(const Arguments& arguments) {
  LazyTokenizer tokenizer([&] { return arguments.model.load_tokenizer(); });
  const DecoderOptions config = arguments.model.read_config();
  const std::vector<RecordFile> files = read_record_files({arguments.data}, arguments.prompts.column_names());
  const auto has = [&](auto holds) { return std::any_of(files[0].records.begin(), files[0].records.end(), holds); };
  Prompts prompts;
  if (has([](const Record& record) { return record.kind != RecordKind::kTokenized; })) {
    prompts = arguments.prompts.resolve(arguments.model.model, arguments.model.adapter, tokenizer.get());
    guess_chat_template(
        prompts, has([](const Record& record) { return record.kind == RecordKind::kChat; }), *tokenizer.get(),
        std::cerr);
  }
  Dataset data = encode_records(
      files, [&] { return tokenizer.get(); },
      DatasetOptions()
          .vocab_size(config.vocab_size())
          .chat_template(prompts.chat_template)
          .prompt_format(prompts.format)
          .now(prompts.now));
  keep_first(data.examples, arguments.limit);
  CausalLM model = load_model(arguments);
  warn_beyond_positions(longest(data.examples), model->options, std::cerr);
  examples::ProgressBar bar("perplexity", data.size());
  const Perplexity result =
      evaluate_perplexity(model, data.examples, arguments.batch_size, [&](int64_t done) { bar.update(done); });
  check_mapped_files();
  return {{"loss", result.loss}, {"perplexity", result.perplexity()}, {"tokens", result.tokens}};
}

AnswerEvaluation answers(const Arguments& arguments, const Tokenizer& tokenizer, const std::vector<Record>& records) {
  GenerationOptions generation = arguments.generation.options(arguments.model, tokenizer);
  const auto prompts =
      arguments.prompts.resolve(arguments.model.model, arguments.model.adapter, &tokenizer).of_prompts();
  if (prompts) {
    add_stop(generation, end_of_message(tokenizer, *prompts));
  }
  CausalLM model = load_model(arguments);
  const bool by_choice = arguments.task == Task::kChoice;
  examples::ProgressBar bar(by_choice ? "choice" : "generation", static_cast<int64_t>(records.size()));
  const auto on_progress = [&](int64_t done) { bar.update(done); };
  try {
    return by_choice
        ? evaluate_choice(model, tokenizer, records, arguments.batch_size, on_progress, prompts)
        : evaluate_generation(
              model, tokenizer, records,
              GenerationTaskOptions().batch_size(arguments.batch_size).generation(generation).chat_template(prompts),
              on_progress);
  } catch (const c10::ValueError& error) {
    throw FormatError(arguments.data, error.what_without_backtrace()); // a record that asks for no answer
  }
}

void write_predictions(
    const std::filesystem::path& path, const std::vector<Record>& records, const std::vector<Prediction>& predictions) {
  std::string lines;
  for (size_t i = 0; i < records.size(); ++i) {
    const Prediction& each = predictions[i];
    const Json line{
        {"record", records[i].number},
        {"text", each.text},
        {"answer", each.answer ? Json(*each.answer) : Json(nullptr)},
        {"gold", each.gold ? Json(each.gold->text) : Json(nullptr)},
        {"correct", each.correct}};
    lines += line.dump() + "\n";
  }
  write_file(path, lines);
}

/// Throws `FileError` where predictions could not be written: known before the work, not after it.
void require_writable(const std::filesystem::path& file) {
  const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
  if (!std::filesystem::is_directory(folder) || std::filesystem::is_directory(file) ||
      ::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw FileError(file, "cannot be written");
  }
}

/// Throws `FileError` for the file of records or of a template, and for one of the model or the adapter but for lines
/// of answers that an earlier evaluation may have left there.
void require_no_input(const std::filesystem::path& file, const Arguments& arguments) {
  namespace fs = std::filesystem;
  if (!fs::exists(file)) {
    return;
  }
  std::vector<fs::path> inputs{arguments.data, arguments.prompts.chat_template};
  for (const std::string& folder : {arguments.model.model, arguments.model.adapter.value_or("")}) {
    std::error_code ignored; // reading it will say what is wrong
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      if (entry.path().extension() != ".jsonl" || entry.path().filename() == "metrics.jsonl") {
        inputs.push_back(entry.path());
      }
    }
  }
  for (const fs::path& input : inputs) {
    std::error_code ignored;
    if (fs::equivalent(file, input, ignored)) {
      throw FileError(file, "is there already and no file of predictions, which --predictions would make of it");
    }
  }
}

int evaluate(const Arguments& arguments) {
  if (arguments.merge && !arguments.model.adapter) {
    throw UsageError("--merge needs --adapter");
  }
  if (arguments.task == Task::kPerplexity) {
    if (arguments.predictions) {
      throw UsageError("--predictions goes with --task choice and --task generation");
    }
    std::cout << perplexity(arguments).dump() << "\n";
    return 0;
  }
  if (arguments.predictions) {
    require_writable(*arguments.predictions);
    require_no_input(*arguments.predictions, arguments);
  }
  std::vector<Record> records = read_records(arguments.data, arguments.prompts.column_names());
  keep_first(records, arguments.limit);
  const auto tokenizer = arguments.model.load_tokenizer();
  const AnswerEvaluation found = answers(arguments, *tokenizer, records);
  check_mapped_files();
  const Json result{
      {"accuracy", found.score.accuracy()},
      {"stderr", found.score.standard_error()},
      {"unparsed", found.score.unparsed_share()},
      {"count", found.score.count}};
  std::cout << result.dump() << std::endl;
  if (arguments.predictions) {
    write_predictions(*arguments.predictions, records, found.predictions);
  }
  return 0;
}

} // namespace

Run add_evaluate(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->generation.max_new_tokens = GenerationTaskOptions().generation().max_new_tokens();
  arguments->model.add_model(flags);
  arguments->model.add_adapter(flags);
  flags.add("data", arguments->data, "A JSON or JSONL file of records").required();
  flags
      .choice<Task>(
          "task", arguments->task,
          {{"perplexity", Task::kPerplexity}, {"choice", Task::kChoice}, {"generation", Task::kGeneration}},
          "perplexity: of the labelled tokens; choice: the likeliest of the prompt's \"Answer format: X/Y\"; "
          "generation: the answer in the text that the model goes on with, which alone reads --max-new-tokens and "
          "--beams")
      .required();
  flags.add("batch-size", arguments->batch_size, "Examples, or prompts, a batch").between(1, kMaxCount);
  arguments->prompts.add_columns(flags);
  arguments->prompts.add_template(flags);
  arguments->prompts.add_format(flags);
  arguments->generation.add_max_new_tokens(flags);
  arguments->generation.add_beams(flags);
  flags.add("limit", arguments->limit, "Only the first N records; 0: all").between(0, kMaxCount);
  flags.add("merge", arguments->merge, "Merge the adapter into the weights first (default: off)");
  flags.add(
      "predictions", arguments->predictions,
      "Write a JSON object a line for each record to this file: record, text, answer, gold, correct (default: none)");
  arguments->model.add_dtype(flags);
  arguments->model.add_device(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_tokenizer(flags);
  arguments->model.add_loading(flags);
  return [arguments] { return evaluate(*arguments); };
}

} // namespace rora::cli
