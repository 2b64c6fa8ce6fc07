#include <rora/checkpoint/file.h>
#include <rora/data/record.h>
#include <rora/error.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "data/record_parser.h"
#include "utf8_sequence.h"

namespace rora {

namespace {

using json = nlohmann::ordered_json; // the keys of tool calls are rendered in their order

// Tokenising takes a hundred times as much memory for a while.
constexpr size_t kMaxRecordBytes = size_t{16} << 20;

int64_t line_of(std::string_view text, size_t offset) {
  return 1 + std::count(text.begin(), text.begin() + std::min(offset, text.size()), '\n');
}

/// nlohmann's reason without its prefix and without the text it read last, which may be long.
std::string parse_reason(const json::exception& error) {
  std::string reason = error.what();
  const size_t bracket = reason.find("] ");
  reason.erase(0, bracket == std::string::npos ? 0 : bracket + 2);
  if (reason.rfind("parse error", 0) == 0) {
    const size_t colon = reason.find(": ");
    reason.erase(0, colon == std::string::npos ? 0 : colon + 2);
  }
  return reason.substr(0, reason.find("; last read"));
}

[[noreturn]] void fail_at(
    const std::filesystem::path& file, std::string_view content, size_t offset, const std::string& reason) {
  const size_t newline = offset == 0 ? std::string_view::npos : content.rfind('\n', offset - 1);
  const size_t column = offset - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  std::ostringstream what;
  what << "line " << line_of(content, offset) << ", column " << column << ": malformed JSON: " << reason;
  throw FormatError(file, what.str());
}

/// Parses `text`, which begins at `offset` of `content`.
json parse(const std::filesystem::path& file, std::string_view content, size_t offset, std::string_view text) {
  const auto fail_in_line = [&](const std::string& reason) {
    throw FormatError(file, "line " + std::to_string(line_of(content, offset)) + ": " + reason);
  };
  try {
    return detail::parse_checked_json<json>(text, fail_in_line);
  } catch (const json::parse_error& error) {
    fail_at(file, content, offset + std::min(error.byte == 0 ? 0 : error.byte - 1, text.size()), parse_reason(error));
  } catch (const json::exception& error) {
    fail_in_line("malformed JSON: " + parse_reason(error));
  }
  return {};
}

/// Makes records of their texts, one after the other.
class RecordReader {
 public:
  RecordReader(
      const std::filesystem::path& file, std::string_view content, const std::map<std::string, std::string>& columns)
      : file_(file), content_(content), columns_(columns) {}

  /// A record that has the content from `begin` to `end`; `line` is 0 in an array.
  void add(size_t begin, size_t end, int64_t line) {
    const int64_t number = static_cast<int64_t>(records_.size()) + 1;
    if (end - begin > kMaxRecordBytes) {
      Record record;
      record.number = number;
      record.line = line;
      throw FormatError(
          file_,
          record.place() + ": expected at most " + std::to_string(kMaxRecordBytes) + " bytes, found " +
              std::to_string(end - begin));
    }
    json value = parse(file_, content_, begin, content_.substr(begin, end - begin));
    detail::rename_columns(file_, value, columns_, number, line);
    records_.push_back(detail::parse_record(file_, value, number, line));
  }

  void add_lines() {
    int64_t line = 1;
    for (size_t begin = 0; begin < content_.size(); ++line) {
      const size_t end = std::min(content_.find('\n', begin), content_.size());
      if (!is_blank(begin, end)) {
        add(begin, end, line);
      }
      begin = end + 1;
    }
  }

  /// The elements of the array that begins at `opening`: cut apart first, as the values of all would take many times
  /// the file's size.
  void add_elements(size_t opening) {
    size_t end = opening;
    do {
      const size_t begin = end + 1;
      end = end_of_element(begin);
      const bool is_empty_array = content_[end] == ']' && records_.empty() && is_blank(begin, end);
      if (!is_empty_array) {
        add(begin, end, 0);
      }
    } while (content_[end] == ',');
    if (const size_t more = content_.find_first_not_of(kBlank, end + 1); more != std::string_view::npos) {
      fail_at(file_, content_, more, "text behind the array's end");
    }
  }

  std::vector<Record> take() {
    return std::move(records_);
  }

 private:
  static constexpr const char* kBlank = " \t\r\n";

  bool is_blank(size_t begin, size_t end) const {
    return content_.substr(begin, end - begin).find_first_not_of(kBlank) == std::string_view::npos;
  }

  /// Where the comma or the bracket stands that ends the element which begins at `begin`.
  size_t end_of_element(size_t begin) const {
    bool in_string = false;
    size_t depth = 0;
    for (size_t i = begin; i < content_.size(); ++i) {
      const char c = content_[i];
      if (in_string) {
        i += c == '\\' ? 1 : 0;
        in_string = c != '"';
      } else if (c == '"') {
        in_string = true;
      } else if (c == '[' || c == '{') {
        ++depth;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        return i;
      } else if (c == ']' || c == '}') {
        depth -= depth > 0 ? 1 : 0;
      }
    }
    fail_at(file_, content_, content_.size(), "the array has no end");
  }

  const std::filesystem::path& file_;
  std::string_view content_;
  const std::map<std::string, std::string>& columns_;
  std::vector<Record> records_;
};

} // namespace

std::string Record::place() const {
  const std::string place = "record " + std::to_string(number);
  return line == 0 ? place : place + " (line " + std::to_string(line) + ")";
}

std::string alpaca_prompt(const std::string& instruction, const std::string& input) {
  std::string prompt = "### Instruction:\n" + instruction + "\n\n";
  if (!input.empty()) {
    prompt += "### Input:\n" + input + "\n\n";
  }
  return prompt + "### Response:\n";
}

void check_columns(const std::map<std::string, std::string>& columns) {
  static const std::vector<std::string> keys{"instruction", "input",         "output", "prompt", "completion",
                                             "messages",    "conversations", "text",   "tools",  "input_ids",
                                             "labels",      "system",        "answer"};
  for (const auto& [key, column] : columns) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      std::string known;
      for (const std::string& each : keys) {
        known += (known.empty() ? "" : ", ") + each;
      }
      C10_THROW_ERROR(ValueError, "columns: " + detail::quote(key) + " is no key of a record; those are " + known);
    }
  }
}

std::vector<Record> read_records(const std::filesystem::path& file, const std::map<std::string, std::string>& columns) {
  check_columns(columns);
  const std::string bytes = read_file_or_pipe(file);
  const size_t invalid = detail::find_invalid_utf8(bytes);
  if (invalid != std::string::npos) {
    std::ostringstream what;
    what << "line " << line_of(bytes, invalid) << ": expected UTF-8, found the byte 0x" << std::hex
         << static_cast<int>(static_cast<unsigned char>(bytes[invalid]));
    throw FormatError(file, what.str());
  }
  // The parser takes a zero byte for the end and would ignore what follows.
  if (const size_t zero = bytes.find('\0'); zero != std::string::npos) {
    throw FormatError(file, "line " + std::to_string(line_of(bytes, zero)) + ": malformed JSON: a zero byte");
  }
  std::string_view content = bytes;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (content.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    content.remove_prefix(kByteOrderMark.size());
  }
  const size_t first = content.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) {
    throw FormatError(file, "expected records, found an empty file");
  }
  RecordReader reader(file, content, columns);
  if (content[first] == '[') {
    reader.add_elements(first);
  } else {
    reader.add_lines();
  }
  std::vector<Record> records = reader.take();
  if (records.empty()) {
    throw FormatError(file, "expected records, found an empty array");
  }
  return records;
}

} // namespace rora
