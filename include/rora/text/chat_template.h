#pragma once

#include <rora/text/tokenizer.h>

#include <torch/arg.h>

#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rora {

struct ChatMessage {
  std::string role; ///< "system", "user", "assistant", "tool" or what else the template takes
  std::string content;
  /// The message's other keys as a JSON object, such as `tool_calls` and `name`; a `content` among them, a list of
  /// parts or null, is taken instead of the one above. Empty: none.
  std::string fields = {};
};

struct RenderOptions {
  TORCH_ARG(bool, add_generation_prompt) = false; // end where the assistant's next message begins
  TORCH_ARG(std::string, tools); // a JSON list of functions by their schemas; empty: none
  TORCH_ARG(std::string, variables); // a JSON object of further names, such as {"enable_thinking": false}; empty: none
  TORCH_ARG(std::optional<std::time_t>, now); // the date that templates ask for, in local time; absent: the clock's
};

/// A chat as a template writes it.
struct RenderedChat {
  std::string text;
  /// The bytes of the text, from and to, that `{% generation %}` blocks wrote: what an assistant says.
  std::vector<std::pair<size_t, size_t>> generated;
};

/// How a model was taught to read chats: a Jinja template, rendered as transformers' `apply_chat_template` does, in its
/// immutable sandbox. What a template asks for and is not supported is refused with its place; one that takes too many
/// steps, too much memory or goes too deep is stopped. Copies share the template.
class ChatTemplate {
 public:
  /// `source` is what `file` holds, named in messages; `special_tokens` are names such as "bos_token" with their texts.
  /// Throws `FormatError` with the place of what is no template, or not supported.
  ChatTemplate(
      std::string source, const std::filesystem::path& file, std::map<std::string, std::string> special_tokens = {});

  /// A template that the library has, which makes up no system message:
  ///
  ///     llama2  BOS[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nUSER [/INST] ASSISTANT EOS BOS[INST] USER [/INST] ...
  ///     llama3  BOS<|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>...
  ///     chatml  <|im_start|>ROLE\nCONTENT<|im_end|>\n...
  ///
  /// White space around contents is cut off in llama2 and llama3. Throws `c10::ValueError` that lists the names.
  static ChatTemplate named(std::string_view name, std::map<std::string, std::string> special_tokens = {});
  static const std::vector<std::string>& names();

  /// The same, with another template for chats with tools.
  ChatTemplate with_tool_template(const ChatTemplate& with_tools) const;
  /// The same, telling that date where `RenderOptions` has none.
  ChatTemplate at(std::time_t now) const;

  /// The Jinja source and where it comes from: a file, or the name of one of the library's.
  const std::string& source() const;
  /// One template that writes both chats with tools and chats without: where those have another, each in a branch of
  /// its own. Nothing where that is not possible, as one of the two marks what is generated and the other does not.
  std::optional<std::string> joined_source() const;
  const std::string& origin() const;
  /// Whether `generated` is filled in, for chats with or without tools.
  bool marks_generation(bool with_tools = false) const;

  /// The chat's text, which is to be tokenised without more special tokens: the template has those it wants. Throws
  /// `c10::ValueError` without messages, where the template itself refuses them (`raise_exception`) and where it fails
  /// on them, with the place.
  RenderedChat render(const std::vector<ChatMessage>& messages, const RenderOptions& options = {}) const;

 private:
  struct Impl;
  const Impl& impl(bool with_tools) const;
  std::shared_ptr<const Impl> impl_;
  std::shared_ptr<const Impl> with_tools_; ///< null: the same
  std::optional<std::time_t> now_;
};

/// The special tokens that templates know by name ("bos_token", "eos_token", …), of a folder's tokenizer_config.json
/// and special_tokens_map.json; those of `tokenizer` where the folder has neither. Throws `FormatError`.
std::map<std::string, std::string> read_special_tokens(
    const std::filesystem::path& folder, const Tokenizer* tokenizer = nullptr);

/// The BOS, EOS and padding token of a tokenizer, as `read_special_tokens` names them.
std::map<std::string, std::string> special_tokens_of(const Tokenizer& tokenizer);

/// The template of a Hugging Face folder: chat_template.jinja (with additional_chat_templates/tool_use.jinja), else
/// `chat_template` of tokenizer_config.json, a string or a list of objects with name and template, of which "default"
/// and "tool_use" are taken. Nothing where the folder has none. Throws `FileError` and `FormatError`.
std::optional<ChatTemplate> load_chat_template(
    const std::filesystem::path& folder, const Tokenizer* tokenizer = nullptr);

/// The template `name`: one of the library's, one of the folder's by its name, or else a file. Throws as the others,
/// and `FileError` where there is no such file.
ChatTemplate load_chat_template(
    const std::string& name, const std::filesystem::path& folder, const Tokenizer* tokenizer = nullptr);

} // namespace rora
