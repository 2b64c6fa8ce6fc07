#include "record_encoder.h"

#include <rora/error.h>
#include <rora/text/prompt.h>

#include <c10/util/Exception.h>

#include <algorithm>

namespace rora::detail {

void append(Example& example, const std::vector<int64_t>& ids, bool labelled) {
  example.input_ids.insert(example.input_ids.end(), ids.begin(), ids.end());
  if (labelled) {
    example.labels.insert(example.labels.end(), ids.begin(), ids.end());
  } else {
    example.labels.insert(example.labels.end(), ids.size(), kIgnoreIndex);
  }
}

RecordEncoder::RecordEncoder(const std::function<const Tokenizer*()>& tokenizer, const DatasetOptions& options)
    : ask_for_tokenizer_(tokenizer),
      options_(options),
      now_(options.now().value_or(std::time(nullptr))),
      vocab_size_(options.vocab_size()) {}

void RecordEncoder::require_tokenizer(const Record& record, const std::filesystem::path& file) {
  tokenizer_ = tokenizer_ == nullptr ? ask_for_tokenizer_() : tokenizer_;
  if (tokenizer_ == nullptr) {
    throw FormatError(file, record.place() + ": expected `input_ids`, as no tokenizer is given, found text");
  }
  if (vocab_size_ == 0) {
    vocab_size_ = tokenizer_->vocab_size();
  }
}

RecordEncoder::Result RecordEncoder::encode(const Record& record, const std::filesystem::path& file) {
  if (record.kind != RecordKind::kTokenized) {
    require_tokenizer(record, file);
  }
  Result result;
  const bool as_chat = writes_chat(record);
  bool label_on_eos = true;
  switch (record.kind) {
    case RecordKind::kCompletion:
      if (!as_chat) {
        result.example = encode_completion(record);
        label_on_eos = options_.train_on_inputs() || !record.completion.empty();
        break;
      }
      [[fallthrough]];
    case RecordKind::kChat:
      try {
        result.example = encode_as_chat(record);
      } catch (const c10::ValueError& error) {
        const std::string field = record.kind == RecordKind::kChat ? "field `messages`: " : "as a chat: ";
        throw FormatError(file, record.place() + ": " + field + error.what_without_backtrace());
      }
      break;
    case RecordKind::kText:
      result.example = encode_text(record.completion);
      break;
    case RecordKind::kTokenized:
      result.example = {record.input_ids, record.labels};
      break;
  }
  const size_t limit = static_cast<size_t>(options_.max_length());
  if (limit > 0 && result.example.input_ids.size() > limit) {
    result.example.input_ids.resize(limit);
    result.example.labels.resize(limit);
    result.truncated = true;
  }
  if (!as_chat && (record.kind == RecordKind::kCompletion || record.kind == RecordKind::kText)) {
    append_eos(result.example, label_on_eos);
  }
  check_vocabulary(record, result.example, file);
  result.unwritten = as_chat ? unwritten_ : std::nullopt;
  return result;
}

bool RecordEncoder::writes_chat(const Record& record) const {
  if (record.kind != RecordKind::kCompletion) {
    return record.kind == RecordKind::kChat;
  }
  const bool has_template = options_.chat_template().has_value();
  return options_.prompt_format() == PromptFormat::kChat ||
      (options_.prompt_format() == PromptFormat::kAuto && has_template);
}

Example RecordEncoder::encode_completion(const Record& record) const {
  Example example;
  if (record.prompt.empty() && record.completion.empty()) {
    return example;
  }
  append(example, encode_prompt(*tokenizer_, record.prompt), options_.train_on_inputs());
  append(example, encode_continuation(*tokenizer_, record.prompt, record.completion), true);
  return example;
}

Example RecordEncoder::encode_text(const std::string& text) const {
  Example example;
  if (!text.empty()) {
    append(example, encode_prompt(*tokenizer_, text), true);
  }
  return example;
}

void RecordEncoder::append_eos(Example& example, bool labelled) const {
  const auto eos = tokenizer_->eos_id;
  const bool room =
      options_.max_length() == 0 || static_cast<int64_t>(example.input_ids.size()) < options_.max_length();
  if (eos && room && !example.input_ids.empty() && example.input_ids.back() != *eos) {
    append(example, {*eos}, labelled);
  }
}

void RecordEncoder::check_vocabulary(
    const Record& record, const Example& example, const std::filesystem::path& file) const {
  if (vocab_size_ == 0) {
    return;
  }
  const auto check = [&](const char* field, const std::vector<int64_t>& ids) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= vocab_size_) {
        const std::string where = record.kind == RecordKind::kTokenized
            ? std::string("field `") + field + "[" + std::to_string(i) + "]`"
            : "token " + std::to_string(i);
        throw FormatError(
            file,
            record.place() + ": " + where + ": expected an id below the vocabulary's size of " +
                std::to_string(vocab_size_) + ", found " + std::to_string(ids[i]));
      }
    }
  };
  check("input_ids", example.input_ids);
  check("labels", example.labels);
}

} // namespace rora::detail
