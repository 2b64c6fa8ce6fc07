#pragma once

#include <rora/data/record.h>
#include <rora/ops/cross_entropy.h>
#include <rora/text/chat_template.h>
#include <rora/text/prompt.h>
#include <rora/text/tokenizer.h>

#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rora {

/// One tokenised sequence. `labels` is as long as `input_ids`, with `kIgnoreIndex` where no loss is taken; it is not
/// shifted: position t's label is predicted from position t−1.
struct Example {
  std::vector<int64_t> input_ids;
  std::vector<int64_t> labels;
};

struct DatasetOptions {
  TORCH_ARG(int64_t, max_length) = 0; // longer examples are cut at the end; 0 is no limit
  TORCH_ARG(bool, train_on_inputs) = false; // labels on the prompt as well
  TORCH_ARG(std::optional<ChatTemplate>, chat_template); // for chats; `default_chat_template` where absent
  TORCH_ARG(PromptFormat, prompt_format) = PromptFormat::kAuto; // of alpaca and prompt–completion records
  TORCH_ARG(std::optional<std::time_t>, now); // the date that a chat template may tell; the clock's where absent
  TORCH_ARG(int64_t, vocab_size) = 0; // the model's: an id beyond it is an error; 0 is the tokenizer's, if there is one
};

/// Examples and what happened on the way to them. Each record is an example, unanswered or skipped.
struct Dataset {
  std::vector<Example> examples;
  int64_t truncated = 0; ///< of the examples, those cut to `max_length`
  int64_t unanswered = 0; ///< records cut to `max_length` that have no label past the first position left
  int64_t skipped = 0; ///< other records without text or ids, or without a label past the first position
  int64_t unwritten = 0; ///< chats with a message, not an assistant's, of whose text the template writes nothing
  std::string first_unwritten; ///< the first of these: its file, record, message and role
  int64_t size() const {
    return static_cast<int64_t>(examples.size());
  }
};

/// Reads JSON and JSONL files as `read_records` does, in the order given, and tokenises them:
///
/// | record | ids | labels on |
/// |---|---|---|
/// | alpaca, prompt and completion | encode(prompt, special) + `encode_continuation` + EOS | the answer and EOS |
/// | chat | the rendered text, see below | the assistant's messages to their end token |
/// | text | encode(text, special) + EOS | all |
/// | tokenised | as given | as given |
///
/// EOS is appended where the tokenizer has one, it fits in `max_length` and does not stand there already; an empty
/// answer takes no label and nor does its EOS. `train_on_inputs` puts labels on all ids, but for tokenised records,
/// whose labels stand as given.
///
/// Alpaca and prompt–completion records are chats of a user and an assistant where `prompt_format` says so.
///
/// A chat's labels are on what the template's `{% generation %}` blocks write, where it has such blocks; else on what
/// stands between the chat rendered up to an assistant's message, as in generation, and rendered through it, and a
/// template by which one does not begin the other is an error. The text is tokenised whole, as transformers does,
/// without more special tokens than the template has; a token that goes over the beginning of an answer belongs to it.
/// An assistant's message that opens a chat, or belongs to the `prompt` of a record, takes no label.
///
/// `tokenizer` may be null where every record is tokenised. Throws `FileError`, and `FormatError` that names file,
/// record and field: what `read_records` throws, an id or label outside the vocabulary, a chat that the template does
/// not allow, a file none of whose records gives an example. Throws `c10::ValueError` on negative options.
Dataset load_dataset(
    const std::vector<std::filesystem::path>& files, const Tokenizer* tokenizer, const DatasetOptions& options = {});

/// The same, with a tokenizer that is asked for when the first record comes that needs one, and never for data that is
/// tokenised already: loading one may take a second.
Dataset load_dataset(
    const std::vector<std::filesystem::path>& files, const std::function<const Tokenizer*()>& tokenizer,
    const DatasetOptions& options = {});

/// What a data file holds, to be encoded after something else has looked at it: a pipe cannot be read twice.
struct RecordFile {
  std::filesystem::path path;
  std::vector<Record> records;
  /// How often its examples are taken: 2 takes each twice, 0.5 every second one. The share is even over the file.
  double weight = 1.0;
};

/// `read_records` of each.
std::vector<RecordFile> read_record_files(
    const std::vector<std::filesystem::path>& files, const std::map<std::string, std::string>& columns = {});

/// `load_dataset` of files that were read already. Throws `c10::ValueError` too, for a weight that is not above 0 or
/// makes more than 2³⁰ examples.
Dataset encode_records(
    const std::vector<RecordFile>& files, const std::function<const Tokenizer*()>& tokenizer,
    const DatasetOptions& options = {});

/// ChatML where the tokenizer knows `<|im_start|>`, llama3 where it knows `<|start_header_id|>`, else llama2: for
/// models whose folders have no template.
ChatTemplate default_chat_template(const Tokenizer& tokenizer);

} // namespace rora
