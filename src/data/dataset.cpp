#include <rora/data/dataset.h>

#include "checkpoint/quote.h"
#include "record_encoder.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <iterator>
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
  std::string first_left_out;
  for (const Record& record : records) {
    auto [example, truncated, unwritten] = encoder.encode(record, file);
    if (unwritten && dataset.unwritten++ == 0) {
      const bool is_chat = record.kind == RecordKind::kChat;
      dataset.first_unwritten = file.string() + ", " + record.place() + ", message " + std::to_string(*unwritten) +
          (is_chat ? " of role " + detail::quote(record.messages[*unwritten].role) : "");
    }
    if (has_target(example)) {
      dataset.examples.push_back(std::move(example));
      dataset.truncated += truncated ? 1 : 0;
    } else {
      ++(truncated ? unanswered : dataset.skipped);
      if (first_left_out.empty()) {
        first_left_out = record.place();
      }
    }
  }
  dataset.unanswered += unanswered;
  if (dataset.size() == before) {
    throw FormatError(
        file,
        "expected an example with a label, found " + std::to_string(records.size()) + " records, " +
            std::to_string(static_cast<int64_t>(records.size()) - unanswered) + " of them empty or without a label" +
            (max_length > 0 ? " and " + std::to_string(unanswered) + " without one once cut to " +
                     std::to_string(max_length) + " tokens"
                            : "") +
            (first_left_out.empty() ? "" : "; the first is " + first_left_out));
  }
}

/// Takes the examples from `begin` on so often, at least one of them.
void weigh(std::vector<Example>& examples, size_t begin, double weight) {
  const auto count = static_cast<double>(examples.size() - begin);
  TORCH_CHECK_VALUE(
      weight > 0 && count * weight <= 0x1p30,
      "weight: expected a number above 0 that makes up to 2^30 examples, found ", weight);
  if (weight == 1.0) {
    return;
  }
  const auto wanted = static_cast<size_t>(std::max(1.0, std::round(count * weight)));
  std::vector<Example> taken;
  for (size_t i = 0; i < wanted; ++i) {
    const auto from = static_cast<size_t>((static_cast<double>(i) + 0.5) * count / static_cast<double>(wanted));
    taken.push_back(examples[begin + from]);
  }
  examples.resize(begin);
  std::move(taken.begin(), taken.end(), std::back_inserter(examples));
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
  for (const std::filesystem::path& file : files) { // one file's records at a time are held in memory
    encode_file(file, read_records(file), encoder, options.max_length(), dataset);
  }
  return dataset;
}

std::vector<RecordFile> read_record_files(
    const std::vector<std::filesystem::path>& files, const std::map<std::string, std::string>& columns) {
  std::vector<RecordFile> read;
  for (const std::filesystem::path& file : files) {
    read.push_back({file, read_records(file, columns)});
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
    const auto before = static_cast<size_t>(dataset.size());
    encode_file(file.path, file.records, encoder, options.max_length(), dataset);
    weigh(dataset.examples, before, file.weight);
  }
  return dataset;
}

ChatTemplate default_chat_template(const Tokenizer& tokenizer) {
  const auto tokens = special_tokens_of(tokenizer);
  if (tokenizer.token_id("<|im_start|>")) {
    return ChatTemplate::named("chatml", tokens);
  }
  return ChatTemplate::named(tokenizer.token_id("<|start_header_id|>") ? "llama3" : "llama2", tokens);
}

} // namespace rora
