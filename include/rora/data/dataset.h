#pragma once

#include <rora/text/chat_template.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rora {

/// What `Trainer` treats as "no label", as in transformers.
inline constexpr int64_t kIgnoreIndex = -100;

/// One tokenised sequence. `labels` is as long as `input_ids`, with `kIgnoreIndex` where no loss is taken; it is not
/// shifted: position t's label is predicted from position t−1.
struct Example {
  std::vector<int64_t> input_ids;
  std::vector<int64_t> labels;
};

struct DatasetOptions {
  int64_t max_length = 0; ///< longer examples are cut at the end; 0 is no limit
  bool train_on_inputs = false; ///< labels on the prompt as well
  std::optional<ChatTemplate> chat_template; ///< for records of chat messages; found from the tokenizer where absent
};

/// Examples and what happened on the way to them.
struct Dataset {
  std::vector<Example> examples;
  int64_t truncated = 0; ///< examples cut to `max_length`
  int64_t skipped = 0; ///< examples without ids, or left without a label
  int64_t size() const {
    return static_cast<int64_t>(examples.size());
  }
};

/// Reads JSON (an array of records) and JSONL (a record a line) files, in the order given. A record is one of:
///
/// | record | keys | labels on |
/// |---|---|---|
/// | alpaca | `instruction`, `input` (may be absent), `output` | the output and EOS |
/// | prompt and completion | `prompt`, `completion` | the completion and EOS |
/// | chat | `messages`: objects of `role`, `content` | the assistant's messages |
/// | text | `text` | all, and EOS |
/// | tokenised | `input_ids`, `labels` (may be absent: all) | as given |
///
/// `tokenizer` may be null where every record is tokenised. Throws `FileError` or `FormatError` (file, record, field),
/// also where no example remains.
Dataset load_dataset(
    const std::vector<std::filesystem::path>& files,
    const Tokenizer* tokenizer,
    const DatasetOptions& options = {});

/// The prompt of an alpaca record, ending where the answer begins:
/// "### Instruction:\n{instruction}\n\n[### Input:\n{input}\n\n]### Response:\n".
std::string alpaca_prompt(const std::string& instruction, const std::string& input);

} // namespace rora
