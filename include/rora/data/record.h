#pragma once

#include <rora/text/chat_template.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rora {

enum class RecordKind {
  kCompletion, ///< `instruction`, `input` (may be absent), `output` (alpaca), or `prompt`, `completion`
  kChat, ///< `messages`, `conversations` (ShareGPT), or `prompt` and `completion` that are lists of messages
  kText, ///< `text`
  kTokenized, ///< `input_ids`, `labels` (may be absent: the ids)
};

/// One record of a data file, before tokenisation.
struct Record {
  RecordKind kind = RecordKind::kText;
  std::string prompt; ///< kCompletion: all before the answer, for alpaca records by `alpaca_prompt`
  std::string completion; ///< kCompletion: the answer; kText: the text
  std::vector<ChatMessage> messages; ///< kChat; kCompletion: the prompt as a chat, a system message and a user's
  size_t prompt_messages = 0; ///< kChat: of the messages, those of a `prompt`, which take no label
  std::string tools; ///< kChat: `tools`, a JSON list of functions; empty: none
  std::vector<int64_t> input_ids; ///< kTokenized
  std::vector<int64_t> labels; ///< kTokenized: as long as `input_ids`
  std::optional<std::string> answer; ///< the key `answer`, a string or a number: what evaluation compares with
  int64_t number = 0; ///< in its file, from 1
  int64_t line = 0; ///< in a JSONL file, from 1; 0 in a JSON array

  /// "record 3", in a JSONL file "record 3 (line 4)": for messages.
  std::string place() const;
};

/// Reads a JSON file (an array of records) or a JSONL file (a record a line; blank lines are passed over). The content
/// tells them apart: an array begins with '['. Kinds may be mixed and other keys may stand beside a record's own; where
/// the keys of several kinds are there, the first of tokenised, chat, alpaca, prompt and completion, text is taken. A
/// key that is null counts as absent.
///
/// A message is an object of `role` and `content`, a text, a list of parts or, beside `tool_calls`, null; its other
/// keys go to the chat template as they are. ShareGPT's `conversations` have `from` (human or user, gpt or assistant,
/// system, tool and their like) and `value`. A `system` beside a chat, a prompt or an instruction is the message before
/// the others; in a prompt's text it stands in front, with an empty line behind.
///
/// What asks for something else than is done is refused: a message's `weight`, `train`, `training`, `loss` or `mask`
/// that leaves it without labels, a chat's `chat_template_kwargs` and `documents`, `history` and `tools` beside a text,
/// and an `attention_mask` that hides any of the `input_ids`.
///
/// A pipe is read once, up to 1 GiB, and a record may have 16 MiB of text. Throws `FileError`, and `FormatError` that
/// names record, line and field: malformed JSON or UTF-8, a key given twice, a record of no kind, a field of another
/// type, labels that are not as many as the ids, a file without records.
///
/// `columns` says what a key of a record is called in the file, {{"instruction", "question"}}: a record without
/// that column is refused. Throws `c10::ValueError` for another key.
std::vector<Record> read_records(
    const std::filesystem::path& file, const std::map<std::string, std::string>& columns = {});

/// Throws `c10::ValueError` where a key of `columns` is none that `read_records` reads.
void check_columns(const std::map<std::string, std::string>& columns);

/// The prompt of an alpaca record, ending where the answer begins:
/// "### Instruction:\n{instruction}\n\n[### Input:\n{input}\n\n]### Response:\n".
std::string alpaca_prompt(const std::string& instruction, const std::string& input);

} // namespace rora
