#include <rora/data/dataset.h>

#include "record_encoder.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <string>

namespace rora {

namespace {

/// The label at position 0 has nothing to be predicted from.
bool has_target(const Example& example) {
  return example.labels.size() > 1 && std::any_of(example.labels.begin() + 1, example.labels.end(), [](int64_t label) {
           return label != kIgnoreIndex;
         });
}

void check_options(const DatasetOptions& options) {
  TORCH_CHECK_VALUE(options.max_length() >= 0, "max_length: expected at least 0, found ", options.max_length());
  TORCH_CHECK_VALUE(options.vocab_size() >= 0, "vocab_size: expected at least 0, found ", options.vocab_size());
}

void encode_file(
    const std::filesystem::path& file, const std::vector<Record>& records, detail::RecordEncoder& encoder,
    int64_t max_length, Dataset& dataset) {
  const int64_t before = dataset.size();
  int64_t unanswered = 0;
  for (const Record& record : records) {
    auto [example, truncated] = encoder.encode(record, file);
    if (has_target(example)) {
      dataset.examples.push_back(std::move(example));
      dataset.truncated += truncated ? 1 : 0;
    } else {
      ++(truncated ? unanswered : dataset.skipped);
    }
  }
  dataset.unanswered += unanswered;
  if (dataset.size() == before) {
    throw FormatError(
        file,
        "expected an example with a label, found " + std::to_string(records.size()) + " records, " +
            std::to_string(static_cast<int64_t>(records.size()) - unanswered) +
            " of them empty or without a label and " + std::to_string(unanswered) + " without one once cut to " +
            std::to_string(max_length) + " tokens");
  }
}

} // namespace

Dataset load_dataset(
    const std::vector<std::filesystem::path>& files, const Tokenizer* tokenizer, const DatasetOptions& options) {
  DatasetOptions known = options;
  if (tokenizer != nullptr && known.vocab_size() == 0) { // also for tokenised records, which do not ask for it
    known.vocab_size(tokenizer->vocab_size());
  }
  return load_dataset(
      files, [tokenizer] { return tokenizer; }, known);
}

Dataset load_dataset(
    const std::vector<std::filesystem::path>& files, const std::function<const Tokenizer*()>& tokenizer,
    const DatasetOptions& options) {
  check_options(options);
  detail::RecordEncoder encoder(tokenizer, options);
  Dataset dataset;
  for (const std::filesystem::path& file : files) {
    encode_file(file, read_records(file), encoder, options.max_length(), dataset);
  }
  return dataset;
}

std::vector<RecordFile> read_record_files(const std::vector<std::filesystem::path>& files) {
  std::vector<RecordFile> read;
  for (const std::filesystem::path& file : files) {
    read.push_back({file, read_records(file)});
  }
  return read;
}

Dataset encode_records(
    const std::vector<RecordFile>& files, const std::function<const Tokenizer*()>& tokenizer,
    const DatasetOptions& options) {
  check_options(options);
  detail::RecordEncoder encoder(tokenizer, options);
  Dataset dataset;
  for (const RecordFile& file : files) {
    encode_file(file.path, file.records, encoder, options.max_length(), dataset);
  }
  return dataset;
}

ChatTemplate default_chat_template(const Tokenizer& tokenizer) {
  if (tokenizer.token_id("<|im_start|>")) {
    return ChatTemplate::kChatML;
  }
  return tokenizer.token_id("<|start_header_id|>") ? ChatTemplate::kLlama3 : ChatTemplate::kLlama2;
}

} // namespace rora
