#include "command.h"
#include "model_flags.h"
#include "prompt_flags.h"

#include <rora/checkpoint/file.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

namespace rora::cli {
namespace {

struct Arguments {
  ModelFlags model;
  std::optional<std::string> text;
  std::optional<std::string> text_file;
  std::optional<std::string> data;
  PromptFlags prompts;
  bool no_special = false;
};

/// A line for each example of a file of records, as training has it.
void tokenize_records(const Arguments& arguments, const Tokenizer& tokenizer) {
  const std::vector<RecordFile> files = read_record_files({*arguments.data}, arguments.prompts.column_names());
  const std::vector<Record>& records = files[0].records;
  Prompts prompts = arguments.prompts.resolve(arguments.model.model, std::nullopt, &tokenizer);
  const auto is_chat = [](const Record& record) { return record.kind == RecordKind::kChat; };
  guess_chat_template(prompts, std::any_of(records.begin(), records.end(), is_chat), tokenizer, std::cerr);
  DatasetOptions options;
  options.chat_template(prompts.chat_template).prompt_format(prompts.format).now(prompts.now);
  if (std::filesystem::exists(std::filesystem::path(arguments.model.model) / "config.json")) {
    options.vocab_size(arguments.model.read_config().vocab_size());
  }
  const Dataset dataset = encode_records(
      files, [&] { return &tokenizer; }, options);
  for (const Example& example : dataset.examples) {
    std::cout << Json{{"input_ids", example.input_ids}, {"labels", example.labels}}.dump() << "\n";
  }
  if (dataset.skipped > 0) {
    std::cerr << dataset.skipped << " records without a label are left out\n";
  }
}

int tokenize(const Arguments& arguments) {
  if (arguments.text.has_value() + arguments.text_file.has_value() + arguments.data.has_value() != 1) {
    throw UsageError("one of --text, --text-file and --data is required");
  }
  const auto tokenizer = arguments.model.load_tokenizer();
  if (arguments.data) {
    tokenize_records(arguments, *tokenizer);
    return 0;
  }
  const std::string text = arguments.text ? *arguments.text : read_file_or_pipe(*arguments.text_file);
  std::cout << Json(tokenizer->encode(text, !arguments.no_special)).dump() << "\n";
  return 0;
}

} // namespace

Run add_tokenize(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  flags.add("text", arguments->text, "The text, byte for byte");
  flags.add("text-file", arguments->text_file, "A file that holds the text, byte for byte");
  flags.add(
      "data", arguments->data,
      "A JSON or JSONL file of records: prints {\"input_ids\": [...], \"labels\": [...]} a line for each example");
  arguments->prompts.add_columns(flags);
  arguments->prompts.add_template(flags);
  arguments->prompts.add_format(flags);
  flags.add(
      "no-special", arguments->no_special, "Without the special tokens that the tokenizer adds itself (default: off)");
  arguments->model.add_tokenizer(flags);
  return [arguments] { return tokenize(*arguments); };
}

} // namespace rora::cli
