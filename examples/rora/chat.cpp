#include "command.h"
#include "generation_flags.h"

#include <rora/data/dataset.h>
#include <rora/text/prompt.h>

#include <unistd.h>

#include <iostream>

namespace rora::cli {
namespace {

struct Arguments {
  ModelFlags model;
  GenerationFlags generation;
  std::optional<ChatTemplate> chat_template;
  std::string system;
};

/// The token that ends an assistant's message.
const char* end_of_message(ChatTemplate format) {
  switch (format) {
    case ChatTemplate::kLlama3:
      return "<|eot_id|>";
    case ChatTemplate::kChatML:
      return "<|im_end|>";
    default:
      return "</s>";
  }
}

class Chat {
 public:
  Chat(const Arguments& arguments)
      : tokenizer_(arguments.model.load_tokenizer()),
        format_(arguments.chat_template ? *arguments.chat_template : default_chat_template(*tokenizer_)),
        system_(arguments.system),
        options_(arguments.generation.options(arguments.model, *tokenizer_)),
        model_(arguments.model.load()) {
    if (const auto end = tokenizer_->token_id(end_of_message(format_))) {
      auto stops = options_.stop_token_ids();
      stops.push_back(*end);
      options_.stop_token_ids(std::move(stops));
    }
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
  /// The chat so far, to where the assistant's message begins.
  std::vector<int64_t> prompt_ids() const {
    return encode_chat_prompt(*tokenizer_, format_, render_chat(format_, messages_, true));
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  ChatTemplate format_;
  std::string system_;
  GenerationOptions options_;
  CausalLM model_;
  std::vector<ChatMessage> messages_;
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
  flags.choice<std::optional<ChatTemplate>>(
      "template", arguments->chat_template,
      {{"auto", std::nullopt},
       {"llama2", ChatTemplate::kLlama2},
       {"llama3", ChatTemplate::kLlama3},
       {"chatml", ChatTemplate::kChatML}},
      "The chat's format; auto: by the special tokens that the tokenizer has");
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
