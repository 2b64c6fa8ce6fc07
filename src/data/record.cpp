#include <rora/checkpoint/file.h>
#include <rora/data/dataset.h>
#include <rora/data/record.h>
#include <rora/error.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"
#include "utf8_sequence.h"

namespace rora {

namespace {

using nlohmann::json;

// Tokenising takes a hundred times as much memory for a while.
constexpr size_t kMaxRecordBytes = size_t{16} << 20;
// A chat is rendered up to each of its messages.
constexpr size_t kMaxMessages = 4096;

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

std::string describe(const json& value) {
  switch (value.type()) {
    case json::value_t::string:
      return "a string";
    case json::value_t::array:
      return "an array";
    case json::value_t::object:
      return "an object";
    default:
      return value.dump(); // null, a boolean or a number
  }
}

/// Turns one JSON value into a `Record`; what it throws names the record.
class RecordParser {
 public:
  RecordParser(const std::filesystem::path& file, int64_t number, int64_t line) : file_(file) {
    record_.number = number;
    record_.line = line;
  }

  Record parse(const json& value) {
    if (!value.is_object()) {
      fail("expected an object, found " + describe(value));
    }
    const auto has = [&](const char* key) {
      const auto found = value.find(key);
      return found != value.end() && !found->is_null();
    };
    // A kind whose keys are all there goes before one that lacks some: the missing key is what is reported then.
    for (const bool whole : {true, false}) {
      if (has("input_ids")) {
        parse_tokenized(value, has("labels"));
      } else if (has("messages")) {
        parse_messages(value);
      } else if (has("instruction") && (!whole || has("output"))) {
        parse_alpaca(value, has("input"));
      } else if (has("prompt") && (!whole || has("completion"))) {
        record_.kind = RecordKind::kCompletion;
        record_.prompt = string_field(value, "prompt");
        record_.completion = string_field(value, "completion");
      } else if (has("text")) {
        record_.kind = RecordKind::kText;
        record_.completion = string_field(value, "text");
      } else {
        continue;
      }
      parse_answer(value);
      return std::move(record_);
    }
    fail(
        "expected the keys `instruction` and `output`, `prompt` and `completion`, `messages`, `text` or `input_ids`, "
        "found " +
        keys_of(value));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError(file_, record_.place() + ": " + what);
  }

  [[noreturn]] void fail_field(const std::string& field, const std::string& expected, const std::string& found) const {
    fail("field `" + field + "`: expected " + expected + ", found " + found);
  }

  static std::string keys_of(const json& object) {
    constexpr size_t kShown = 8;
    std::string keys;
    size_t count = 0;
    for (const auto& item : object.items()) {
      if (++count > kShown) {
        return keys + ", ...";
      }
      keys += (keys.empty() ? "" : ", ") + detail::quote(item.key());
    }
    return keys.empty() ? "none" : keys;
  }

  std::string string_field(const json& object, const char* key, const std::string& parent = "") const {
    const auto found = object.find(key);
    if (found == object.end()) {
      fail_field(parent + key, "a string", "none");
    }
    if (!found->is_string()) {
      fail_field(parent + key, "a string", describe(*found));
    }
    return found->get<std::string>();
  }

  std::vector<int64_t> integers_field(const json& object, const char* key) const {
    const json& value = object.at(key);
    if (!value.is_array()) {
      fail_field(key, "an array of integers", describe(value));
    }
    std::vector<int64_t> integers;
    integers.reserve(value.size());
    for (const json& element : value) {
      const bool too_large = element.is_number_unsigned() &&
          element.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
      if (!element.is_number_integer() || too_large) {
        fail_field(key + ("[" + std::to_string(integers.size()) + "]"), "an integer", describe(element));
      }
      integers.push_back(element.get<int64_t>());
    }
    return integers;
  }

  void parse_tokenized(const json& value, bool has_labels) {
    record_.kind = RecordKind::kTokenized;
    record_.input_ids = integers_field(value, "input_ids");
    record_.labels = has_labels ? integers_field(value, "labels") : record_.input_ids;
    if (record_.labels.size() != record_.input_ids.size()) {
      fail_field(
          "labels", "as many as `input_ids`, " + std::to_string(record_.input_ids.size()),
          std::to_string(record_.labels.size()));
    }
    for (size_t i = 0; i < record_.input_ids.size(); ++i) {
      if (record_.input_ids[i] < 0) {
        fail_field("input_ids[" + std::to_string(i) + "]", "an id of at least 0", std::to_string(record_.input_ids[i]));
      }
      if (record_.labels[i] < 0 && record_.labels[i] != kIgnoreIndex) {
        fail_field(
            "labels[" + std::to_string(i) + "]", "an id or " + std::to_string(kIgnoreIndex),
            std::to_string(record_.labels[i]));
      }
    }
  }

  void parse_messages(const json& value) {
    record_.kind = RecordKind::kChat;
    const json& messages = value.at("messages");
    if (!messages.is_array()) {
      fail_field("messages", "an array", describe(messages));
    }
    if (messages.size() > kMaxMessages) {
      fail_field("messages", "at most " + std::to_string(kMaxMessages), std::to_string(messages.size()));
    }
    for (const json& message : messages) {
      const std::string field = "messages[" + std::to_string(record_.messages.size()) + "]";
      if (!message.is_object()) {
        fail_field(field, "an object", describe(message));
      }
      const std::string role = string_field(message, "role", field + ".");
      if (role != "system" && role != "user" && role != "assistant") {
        fail_field(field + ".role", "system, user or assistant", detail::quote(role));
      }
      record_.messages.push_back({role, string_field(message, "content", field + ".")});
    }
  }

  void parse_alpaca(const json& value, bool has_input) {
    record_.kind = RecordKind::kCompletion;
    record_.prompt =
        alpaca_prompt(string_field(value, "instruction"), has_input ? string_field(value, "input") : std::string());
    record_.completion = string_field(value, "output");
  }

  void parse_answer(const json& value) {
    const auto answer = value.find("answer");
    if (answer != value.end() && (answer->is_string() || answer->is_number())) {
      record_.answer = answer->is_string() ? answer->get<std::string>() : answer->dump();
    }
  }

  const std::filesystem::path& file_;
  Record record_;
};

/// Makes records of their texts, one after the other.
class RecordReader {
 public:
  RecordReader(const std::filesystem::path& file, std::string_view content) : file_(file), content_(content) {}

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
    const json value = parse(file_, content_, begin, content_.substr(begin, end - begin));
    records_.push_back(RecordParser(file_, number, line).parse(value));
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

std::vector<Record> read_records(const std::filesystem::path& file) {
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
  RecordReader reader(file, content);
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
