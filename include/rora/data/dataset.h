#pragma once

#include <rora/data/record.h>
#include <rora/ops/cross_entropy.h>
#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
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
  TORCH_ARG(int64_t, vocab_size) = 0; // the model's: an id beyond it is an error; 0 is the tokenizer's, if there is one
};

/// Examples and what happened on the way to them. Each record is an example, unanswered or skipped.
struct Dataset {
  std::vector<Example> examples;
  int64_t truncated = 0; ///< of the examples, those cut to `max_length`
  int64_t unanswered = 0; ///< records cut to `max_length` that have no label past the first position left
  int64_t skipped = 0; ///< other records without text or ids, or without a label past the first position
  int64_t size() const {
    return static_cast<int64_t>(examples.size());
  }
};

/// Reads JSON and JSONL files as `read_records` does, in the order given, and tokenises them:
///
/// | record | ids | labels on |
/// |---|---|---|
/// | alpaca, prompt and completion | encode(prompt, special) + encode(answer) + EOS | the answer and EOS |
/// | chat | the rendered text, see below | the assistant's messages to their end token |
/// | text | encode(text, special) + EOS | all |
/// | tokenised | as given | as given |
///
/// EOS is appended where the tokenizer has one, it fits in `max_length` and does not stand there already; an empty
/// answer takes no label and nor does its EOS. `train_on_inputs` puts labels on all ids, but for tokenised records,
/// whose labels stand as given.
///
/// A chat is cut where an assistant's message begins and ends, found by rendering the messages before and through it.
/// Each piece b is tokenised behind the piece a before it: where encode(a) is the beginning of encode(a + b), b is the
/// rest of it, as in the whole text, else encode(b). So each token belongs to one piece, and a prompt that ends where
/// an answer begins has the tokens it has in generation. Exactly one BOS stands at the beginning where the tokenizer
/// adds one or the template has one (llama2, llama3). An assistant's message that opens a chat takes no label.
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
};

/// `read_records` of each.
std::vector<RecordFile> read_record_files(const std::vector<std::filesystem::path>& files);

/// `load_dataset` of files that were read already.
Dataset encode_records(
    const std::vector<RecordFile>& files, const std::function<const Tokenizer*()>& tokenizer,
    const DatasetOptions& options = {});

/// ChatML where the tokenizer knows `<|im_start|>`, llama3 where it knows `<|start_header_id|>`, else llama2.
ChatTemplate default_chat_template(const Tokenizer& tokenizer);

} // namespace rora
