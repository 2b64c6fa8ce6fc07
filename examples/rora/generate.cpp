#include "command.h"
#include "generation_flags.h"
#include "positions.h"
#include "prompt_flags.h"

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
  PromptFlags prompts;
  bool chat = false;
  std::string system;
  bool json = false;
};

/// The prompts' form: text without --chat and without an adapter that was trained on chats.
Prompts resolve_prompts(const Arguments& arguments, const Tokenizer& tokenizer) {
  PromptFlags flags = arguments.prompts;
  if (arguments.chat) {
    if (flags.prompt_format == PromptFormat::kAlpaca) {
      throw UsageError("--chat and --prompt-format alpaca exclude each other");
    }
    Prompts prompts = flags.resolve(arguments.model.model, arguments.model.adapter, &tokenizer);
    guess_chat_template(prompts, true, tokenizer, std::cerr);
    prompts.format = PromptFormat::kChat;
    return prompts;
  }
  if (flags.prompt_format == PromptFormat::kAuto) {
    const std::optional<std::string>& adapter = arguments.model.adapter;
    const bool is_chat =
        flags.chat_template != "auto" || (adapter && format_of_adapter(*adapter) == PromptFormat::kChat);
    flags.prompt_format = is_chat ? PromptFormat::kChat : PromptFormat::kAlpaca;
  }
  Prompts prompts = flags.resolve(arguments.model.model, arguments.model.adapter, &tokenizer);
  if (prompts.format == PromptFormat::kAlpaca && !arguments.system.empty()) {
    throw UsageError("--system needs --chat: a text has no place for it");
  }
  return prompts;
}

/// The prompt's ids. Where there are none, generation starts from BOS, as in transformers.
std::vector<int64_t> prompt_ids(
    const Arguments& arguments, const Tokenizer& tokenizer, const DecoderOptions& options, const Prompts& prompts) {
  const std::string prompt = arguments.prompt ? *arguments.prompt : read_file_or_pipe(*arguments.prompt_file);
  if (const auto chat_template = prompts.of_prompts()) {
    std::vector<ChatMessage> messages{{"user", prompt}};
    if (!arguments.system.empty()) {
      messages.insert(messages.begin(), {"system", arguments.system});
    }
    return encode_chat_prompt(tokenizer, *chat_template, messages, RenderOptions().now(prompts.now));
  }
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
  GenerationOptions options = arguments.generation.options(arguments.model, *tokenizer);
  const Prompts prompts = resolve_prompts(arguments, *tokenizer);
  if (const auto chat_template = prompts.of_prompts()) {
    add_stop(options, end_of_message(*tokenizer, *chat_template));
  }
  CausalLM model = arguments.model.load();
  std::vector<int64_t> ids = prompt_ids(arguments, *tokenizer, model->options, prompts);

  warn_beyond_positions(std::ssize(ids) + options.max_new_tokens(), model->options, std::cerr);
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
  flags.add(
      "chat", arguments->chat,
      "The prompt is a user's message, written by the chat template (default: off, but for an adapter that was trained "
      "on chats)");
  flags.add("system", arguments->system, "The system message before it (default: none)");
  arguments->prompts.add_template(flags);
  arguments->prompts.add_format(flags);
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
