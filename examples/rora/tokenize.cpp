#include "command.h"
#include "model_flags.h"

#include <rora/checkpoint/file.h>

#include <iostream>

namespace rora::cli {
namespace {

struct Arguments {
  ModelFlags model;
  std::optional<std::string> text;
  std::optional<std::string> text_file;
  bool no_special = false;
};

int tokenize(const Arguments& arguments) {
  if (arguments.text.has_value() == arguments.text_file.has_value()) {
    throw UsageError("one of --text and --text-file is required");
  }
  const auto tokenizer = arguments.model.load_tokenizer();
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
      "no-special", arguments->no_special, "Without the special tokens that the tokenizer adds itself (default: off)");
  arguments->model.add_tokenizer(flags);
  return [arguments] { return tokenize(*arguments); };
}

} // namespace rora::cli
