#include "train_tokenizer.h"

#include <sentencepiece_trainer.h>

#include <c10/util/Exception.h>

#include <unordered_map>

namespace rora::cli {
namespace {

/// Lines, as sentencepiece passes over longer ones than a few kilobytes.
void append_lines(const std::string& text, std::vector<std::string>& lines) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) {
      lines.push_back(text.substr(begin, end - begin));
    }
    begin = end + 1;
  }
}

std::vector<std::string> lines_of(const std::vector<RecordFile>& files) {
  std::vector<std::string> lines;
  for (const RecordFile& file : files) {
    for (const Record& record : file.records) {
      append_lines(record.prompt, lines);
      append_lines(record.completion, lines);
      for (const ChatMessage& message :
           record.kind == RecordKind::kChat ? record.messages : std::vector<ChatMessage>()) {
        append_lines(message.content, lines);
      }
    }
  }
  return lines;
}

class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override {
    return next_ >= lines_.size();
  }
  void Next() override {
    ++next_;
  }
  const std::string& value() const override {
    return lines_[next_];
  }
  sentencepiece::util::Status status() const override {
    return {};
  }

 private:
  const std::vector<std::string>& lines_;
  size_t next_ = 0;
};

} // namespace

std::string train_tokenizer(const std::vector<RecordFile>& files, int64_t vocab_size) {
  const std::vector<std::string> lines = lines_of(files);
  if (lines.empty()) {
    C10_THROW_ERROR(ValueError, "the data holds no text to train a tokenizer on");
  }
  LineIterator iterator(lines);
  const std::unordered_map<std::string, std::string> options{
      {"model_type", "bpe"},         {"vocab_size", std::to_string(vocab_size)}, {"byte_fallback", "true"},
      {"character_coverage", "1.0"}, {"normalization_rule_name", "identity"},    {"remove_extra_whitespaces", "false"},
      {"split_digits", "true"},      {"allow_whitespace_only_pieces", "true"},   {"num_threads", "1"},
      {"minloglevel", "2"}};
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  if (!status.ok()) {
    C10_THROW_ERROR(ValueError, "the tokenizer cannot be trained: " + status.ToString());
  }
  return model;
}

} // namespace rora::cli
