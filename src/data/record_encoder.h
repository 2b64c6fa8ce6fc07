#pragma once

#include <rora/data/dataset.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rora::detail {

/// `ids` to the end of `example`, with or without their labels.
void append(Example& example, const std::vector<int64_t>& ids, bool labelled);

/// Turns records into examples as `load_dataset` says. Holds references: neither argument may go before it.
class RecordEncoder {
 public:
  /// `tokenizer` is called once, for the first record that is not tokenised; it may give null.
  RecordEncoder(const std::function<const Tokenizer*()>& tokenizer, const DatasetOptions& options);

  struct Result {
    Example example; ///< empty where the record has no text
    bool truncated = false;
    std::optional<size_t> unwritten{}; ///< the message of a chat of which its text has nothing
  };

  /// `file` is for messages.
  Result encode(const Record& record, const std::filesystem::path& file);

 private:
  /// A part of a chat's text: labels are on the assistant's.
  struct Piece {
    std::string text;
    bool labelled;
  };

  void require_tokenizer(const Record& record, const std::filesystem::path& file);
  Example encode_completion(const Record& record) const;
  Example encode_text(const std::string& text) const;
  Example encode_as_chat(const Record& record);
  /// The first message, not an assistant's, whose text is not in that of the chat.
  static std::optional<size_t> find_unwritten(const std::vector<ChatMessage>& messages, std::string_view chat);
  /// Labels on what assistants say from message `first` on.
  Example encode_chat(const std::vector<ChatMessage>& messages, size_t first, const std::string& tools);
  std::vector<Piece> generated_pieces(
      const std::vector<ChatMessage>& messages, size_t first, const RenderOptions& options) const;
  std::vector<Piece> prefix_pieces(
      const std::vector<ChatMessage>& messages, size_t first, const RenderOptions& options) const;
  bool writes_chat(const Record& record) const;
  /// Where in `ids`, those of the whole text, the tokens of a piece end that begin at `begin`; `prefix` is the text up
  /// to its end.
  size_t end_of_piece(
      const std::vector<int64_t>& ids, size_t begin, const std::string* previous, const std::string& piece,
      std::string_view prefix) const;
  /// The number of an assistant's tokens up to and with the template's end of a message, or EOS, or all: what a
  /// template writes behind it (ChatML a line break) is never generated.
  size_t end_of_answer(const std::vector<int64_t>& ids) const;
  /// Whether an assistant's text is nothing but special tokens and space.
  bool is_end_alone(const std::string& text) const;
  void append_eos(Example& example, bool labelled) const;
  void check_vocabulary(const Record& record, const Example& example, const std::filesystem::path& file) const;

  const std::function<const Tokenizer*()>& ask_for_tokenizer_;
  const Tokenizer* tokenizer_ = nullptr; ///< until a record needs it
  const DatasetOptions& options_;
  std::optional<ChatTemplate> chat_template_; ///< once a chat needs it
  std::optional<int64_t> end_of_message_; ///< of that template
  std::time_t now_; ///< one date for all chats
  int64_t vocab_size_ = 0; ///< 0: unknown
  std::optional<size_t> unwritten_; ///< of the chat that was encoded last
};

} // namespace rora::detail
