#include "command.h"
#include "generation_flags.h"
#include "positions.h"
#include "prompt_flags.h"

#include <rora/text/prompt.h>

#include <unistd.h>

#include <iostream>
#include <utility>

namespace rora::cli {
namespace {

struct Arguments {
  ModelFlags model;
  GenerationFlags generation;
  PromptFlags prompts;
  std::string old_template = "auto";
  std::string system;
};

/// The template: --chat-template, or --template, its older name.
Prompts resolve_prompts(const Arguments& arguments, const Tokenizer& tokenizer) {
  PromptFlags flags = arguments.prompts;
  if (arguments.old_template != "auto") {
    if (flags.chat_template != "auto") {
      throw UsageError("--template and --chat-template exclude each other");
    }
    flags.chat_template = arguments.old_template;
  }
  flags.prompt_format = PromptFormat::kAlpaca; // of records, of which there are none
  Prompts prompts = flags.resolve(arguments.model.model, arguments.model.adapter, &tokenizer);
  guess_chat_template(prompts, true, tokenizer, std::cerr);
  return prompts;
}

class Chat {
 public:
  Chat(const Arguments& arguments)
      : tokenizer_(arguments.model.load_tokenizer()),
        prompts_(resolve_prompts(arguments, *tokenizer_)),
        system_(arguments.system),
        options_(arguments.generation.options(arguments.model, *tokenizer_)),
        model_(arguments.model.load()) {
    add_stop(options_, end_of_message(*tokenizer_, *prompts_.chat_template));
    reset();
  }

  /// Forgets what was said.
  void reset() {
    messages_.clear();
    if (!system_.empty()) {
      messages_.push_back({"system", system_});
    }
  }

  /// Writes the model's answer to stdout, on a terminal as it comes.
  void answer(const std::string& message) {
    messages_.push_back({"user", message});
    TextStream stream(*tokenizer_);
    std::function<void(int64_t, int64_t)> on_token;
    if (isatty(STDOUT_FILENO) != 0) {
      on_token = [&](int64_t, int64_t id) { stream.add({id}); };
    }
    const auto ids = generate(model_, {prompt_ids()}, options_, on_token)[0];
    if (!on_token) {
      stream.add(ids);
    }
    stream.finish();
    std::cout << std::endl;
    messages_.push_back({"assistant", generated_text(*tokenizer_, ids)});
  }

 private:
  /// The chat so far, to where the assistant's message begins. Of one that leaves no room for an answer within the
  /// positions that the model was made for the oldest turns are forgotten, but for the system message and the last.
  std::vector<int64_t> prompt_ids() {
    const int64_t limit = max_positions(model_->options);
    const auto has_room = [&](const std::vector<int64_t>& ids) {
      return std::ssize(ids) + options_.max_new_tokens() <= limit;
    };
    std::vector<int64_t> ids = encoded();
    const size_t first = system_.empty() ? 0 : 1;
    bool has_forgotten = false;
    while (!has_room(ids) && messages_.size() > first + 2) {
      const auto oldest = messages_.begin() + static_cast<std::ptrdiff_t>(first);
      messages_.erase(oldest, oldest + 2); // a user's message and its answer
      has_forgotten = true;
      ids = encoded();
    }
    if (has_forgotten && !std::exchange(told_of_forgetting_, true)) {
      std::cerr << "the oldest turns are forgotten from here on: the chat and an answer of up to "
                << options_.max_new_tokens() << " tokens go beyond the model's " << limit << " positions" << std::endl;
    }
    if (!has_room(ids) && !std::exchange(told_of_positions_, true)) {
      warn_beyond_positions(std::ssize(ids) + options_.max_new_tokens(), model_->options, std::cerr);
    }
    return ids;
  }

  std::vector<int64_t> encoded() const {
    return encode_chat_prompt(*tokenizer_, *prompts_.chat_template, messages_, RenderOptions().now(prompts_.now));
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  Prompts prompts_;
  std::string system_;
  GenerationOptions options_;
  CausalLM model_;
  std::vector<ChatMessage> messages_;
  bool told_of_forgetting_ = false;
  bool told_of_positions_ = false;
};

int chat(const Arguments& arguments) {
  Chat chat(arguments);
  const bool interactive = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
  if (interactive) {
    std::cout << "/reset forgets what was said, /exit or Ctrl-D leaves" << std::endl;
  }
  std::string line;
  while (true) {
    if (interactive) {
      std::cout << "\n> " << std::flush;
    }
    if (!std::getline(std::cin, line)) {
      break;
    }
    if (line.ends_with('\r')) {
      line.pop_back();
    }
    if (line == "/exit") {
      return 0;
    }
    if (line == "/reset") {
      chat.reset();
    } else if (line.find_first_not_of(" \t") != std::string::npos) {
      chat.answer(line);
    }
  }
  if (interactive) {
    std::cout << std::endl;
  }
  return 0;
}

} // namespace

Run add_chat(Flags& flags) {
  auto arguments = std::make_shared<Arguments>();
  arguments->generation.max_new_tokens = 512;
  arguments->generation.temperature = 0.7;
  arguments->generation.top_p = 0.9;
  arguments->model.add_model(flags);
  arguments->model.add_adapter(flags);
  arguments->prompts.add_template(flags);
  flags.add("template", arguments->old_template, "The same as --chat-template");
  flags.add("system", arguments->system, "The system message (default: none)");
  arguments->generation.add_max_new_tokens(flags);
  arguments->generation.add_sampling(flags);
  arguments->model.add_dtype(flags);
  arguments->model.add_device(flags);
  arguments->model.add_threads(flags);
  arguments->model.add_tokenizer(flags);
  arguments->model.add_loading(flags);
  return [arguments] { return chat(*arguments); };
}

} // namespace rora::cli
