#include "command.h"
#include "generation_flags.h"

#include <rora/checkpoint/file.h>
#include <rora/text/prompt.h>

#include <unistd.h>

#include <iostream>

namespace rora::cli {
namespace {

struct Arguments {
  ModelFlags model;
  GenerationFlags generation;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  bool json = false;
};

/// The prompt's ids. Where there are none, generation starts from BOS, as in transformers.
std::vector<int64_t> prompt_ids(const Arguments& arguments, const Tokenizer& tokenizer, const DecoderOptions& options) {
  const std::string prompt = arguments.prompt ? *arguments.prompt : read_file_or_pipe(*arguments.prompt_file);
  std::vector<int64_t> ids = encode_prompt(tokenizer, prompt);
  if (ids.empty()) {
    const auto bos = options.bos_token_id() ? options.bos_token_id() : tokenizer.bos_id;
    if (!bos) {
      throw std::runtime_error("the prompt is empty and the model has no BOS token to start from");
    }
    ids.push_back(*bos);
  }
  return ids;
}

int generate_text(const Arguments& arguments) {
  if (arguments.prompt.has_value() == arguments.prompt_file.has_value()) {
    throw UsageError(
        arguments.prompt ? "--prompt and --prompt-file exclude each other"
                         : "one of --prompt and --prompt-file is required");
  }
  const auto tokenizer = arguments.model.load_tokenizer();
  const GenerationOptions options = arguments.generation.options(arguments.model, *tokenizer);
  CausalLM model = arguments.model.load();
  std::vector<int64_t> ids = prompt_ids(arguments, *tokenizer, model->options);

  const bool streams = !arguments.json && options.num_beams() == 1 && isatty(STDOUT_FILENO) != 0;
  TextStream stream(*tokenizer);
  std::function<void(int64_t, int64_t)> on_token;
  if (streams) {
    stream.add(ids);
    on_token = [&](int64_t, int64_t id) { stream.add({id}); };
  }
  const auto continuation = generate(model, {ids}, options, on_token)[0];
  ids.insert(ids.end(), continuation.begin(), continuation.end());
  if (streams) {
    stream.finish();
    std::cout << "\n";
    return 0;
  }
  const std::string text = generated_text(*tokenizer, ids);
  std::cout << (arguments.json ? Json{{"ids", ids}, {"text", text}}.dump() : text) << "\n";
  return 0;
}

} // namespace

Run add_generate(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->model.add_model(flags);
  arguments->model.add_adapter(flags);
  flags.add("prompt", arguments->prompt, "The text to go on from, byte for byte");
  flags.add("prompt-file", arguments->prompt_file, "A file that holds the text, byte for byte");
  arguments->generation.add_max_new_tokens(flags);
  arguments->generation.add_sampling(flags);
  arguments->generation.add_beams(flags);
  flags.add(
      "json", arguments->json,
      "Print {\"ids\": [...], \"text\": ...}: the prompt and what follows, ids with the special tokens and the end "
      "token that stopped it, text without them (default: off)");
  arguments->model.add_dtype(flags);
  arguments->model.add_device(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_tokenizer(flags);
  arguments->model.add_loading(flags);
  return [arguments] { return generate_text(*arguments); };
}

} // namespace rora::cli
