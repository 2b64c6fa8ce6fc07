#include "record_parser.h"

#include "checkpoint/quote.h"

#include <rora/data/dataset.h>
#include <rora/error.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <utility>

namespace rora::detail {

namespace {

using json = nlohmann::ordered_json;

// A chat is rendered up to each of its messages.
constexpr size_t kMaxMessages = 1024;

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
        parse_chat(value, "messages", "role", "content");
      } else if (has("conversations")) {
        parse_chat(value, "conversations", "from", "value");
      } else if (has("instruction") && (!whole || has("output"))) {
        parse_alpaca(value, has("input"));
      } else if (has("prompt") && (!whole || has("completion"))) {
        parse_completion(value);
      } else if (has("text")) {
        record_.kind = RecordKind::kText;
        record_.completion = string_field(value, "text");
      } else {
        continue;
      }
      refuse_unread(value);
      parse_system(value);
      parse_tools(value);
      parse_answer(value);
      return std::move(record_);
    }
    fail(
        "expected the keys `instruction` and `output`, `prompt` and `completion`, `messages`, `conversations`, `text` "
        "or "
        "`input_ids`, found " +
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
      keys += (keys.empty() ? "" : ", ") + quote(item.key());
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

  /// What asks for something that is not done: passed over, a record would mean something else.
  void refuse_unread(const json& value) const {
    const auto refuse = [&](const char* key, const char* why) {
      const auto found = value.find(key);
      const bool is_absent = found == value.end() || found->is_null() || *found == "" || *found == "[]" ||
          (found->is_structured() && found->empty());
      if (!is_absent) {
        fail_field(key, "none, as " + std::string(why), describe(*found));
      }
    };
    if (record_.kind == RecordKind::kChat) {
      refuse("chat_template_kwargs", "a chat template is given no values but the messages and the tools");
      refuse("documents", "a chat template is given no documents");
    }
    if (record_.kind == RecordKind::kCompletion) {
      refuse("history", "only `messages` and `conversations` have turns before the last");
      refuse("tools", "only `messages` and `conversations` have a place for them");
    }
  }

  void parse_tokenized(const json& value, bool has_labels) {
    record_.kind = RecordKind::kTokenized;
    record_.input_ids = integers_field(value, "input_ids");
    if (value.contains("attention_mask") && !value.at("attention_mask").is_null()) {
      const std::vector<int64_t> mask = integers_field(value, "attention_mask");
      if (mask != std::vector<int64_t>(record_.input_ids.size(), 1)) {
        fail_field("attention_mask", "a 1 for each of `input_ids`, as batches are padded here", "another");
      }
    }
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

  void parse_chat(const json& value, const char* key, const char* role_key, const char* content_key) {
    record_.kind = RecordKind::kChat;
    parse_messages(value, key, role_key, content_key);
  }

  /// The messages of `key`, behind those that are there already.
  void parse_messages(const json& value, const char* key, const char* role_key, const char* content_key) {
    const json& messages = value.at(key);
    if (!messages.is_array()) {
      fail_field(key, "an array", describe(messages));
    }
    if (record_.messages.size() + messages.size() > kMaxMessages) {
      fail_field(key, "at most " + std::to_string(kMaxMessages), std::to_string(messages.size()));
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      const std::string field = key + ("[" + std::to_string(i) + "]");
      if (!messages[i].is_object()) {
        fail_field(field, "an object", describe(messages[i]));
      }
      record_.messages.push_back(parse_message(messages[i], field + ".", role_key, content_key));
    }
  }

  ChatMessage parse_message(
      const json& message, const std::string& field, const char* role_key, const char* content_key) const {
    ChatMessage parsed;
    parsed.role = string_field(message, role_key, field);
    if (role_key == std::string_view("from")) {
      parsed.role = role_of_sharegpt(parsed.role, field + role_key);
    }
    const bool has_calls = message.contains("tool_calls") && !message.at("tool_calls").is_null();
    const auto content = message.find(content_key);
    json fields;
    if (content != message.end() && content->is_array()) {
      fields["content"] = *content; // parts, which the template goes through
    } else if (has_calls && (content == message.end() || content->is_null())) {
      fields["content"] = nullptr;
    } else {
      parsed.content = string_field(message, content_key, field);
    }
    refuse_weights(message, field);
    for (const auto& [key, value] : message.items()) {
      const bool is_own = key == role_key || key == content_key;
      if (!is_own && key != "role" && key != "content") {
        fields[key] = value;
      }
    }
    parsed.fields = fields.is_null() ? "" : fields.dump();
    return parsed;
  }

  /// Other tools leave a message without labels that says so; here it would be trained on.
  void refuse_weights(const json& message, const std::string& field) const {
    const auto require = [&](const char* key, const json& trained) {
      const auto found = message.find(key);
      const bool agrees = found == message.end() || found->is_null() || *found == trained ||
          (trained.is_boolean() && *found == (trained.get<bool>() ? 1 : 0));
      if (!agrees) {
        fail_field(field + key, trained.dump() + " or none, as a message's labels cannot be chosen", describe(*found));
      }
    };
    require("weight", 1);
    for (const char* key : {"train", "training", "loss"}) {
      require(key, true);
    }
    require("mask", false);
  }

  std::string role_of_sharegpt(const std::string& from, const std::string& field) const {
    static constexpr std::array<std::pair<std::string_view, const char*>, 12> kRoles = {{
        {"human", "user"},
        {"user", "user"},
        {"gpt", "assistant"},
        {"chatgpt", "assistant"},
        {"bing", "assistant"},
        {"bard", "assistant"},
        {"model", "assistant"},
        {"assistant", "assistant"},
        {"system", "system"},
        {"tool", "tool"},
        {"observation", "tool"},
        {"function_response", "tool"},
    }};
    for (const auto& [name, role] : kRoles) {
      if (from == name) {
        return role;
      }
    }
    fail_field(field, "human, gpt, system or tool", quote(from));
  }

  void parse_alpaca(const json& value, bool has_input) {
    record_.kind = RecordKind::kCompletion;
    const std::string instruction = string_field(value, "instruction");
    const std::string input = has_input ? string_field(value, "input") : std::string();
    record_.prompt = alpaca_prompt(instruction, input);
    record_.messages = {{"user", input.empty() ? instruction : instruction + "\n\n" + input}};
    record_.completion = string_field(value, "output");
  }

  /// Texts, or both lists of messages.
  void parse_completion(const json& value) {
    const auto completion = value.find("completion");
    if (value.at("prompt").is_array() && completion != value.end() && completion->is_array()) {
      record_.kind = RecordKind::kChat;
      parse_messages(value, "prompt", "role", "content");
      record_.prompt_messages = record_.messages.size();
      parse_messages(value, "completion", "role", "content");
      return;
    }
    record_.kind = RecordKind::kCompletion;
    record_.prompt = string_field(value, "prompt");
    record_.messages = {{"user", record_.prompt}};
    record_.completion = string_field(value, "completion");
  }

  /// A system message that stands beside the others.
  void parse_system(const json& value) {
    const auto found = value.find("system");
    if (found == value.end() || found->is_null()) {
      return;
    }
    const std::string system = string_field(value, "system");
    if (system.empty()) {
      return;
    }
    if (record_.messages.empty()) {
      fail("field `system`: only chats, prompts and instructions have a place for it");
    }
    if (record_.messages.front().role == "system") {
      fail("field `system`: the first message is a system message already");
    }
    record_.messages.insert(record_.messages.begin(), {"system", system});
    if (record_.kind == RecordKind::kCompletion) {
      record_.prompt = system + "\n\n" + record_.prompt;
    } else {
      record_.prompt_messages += record_.prompt_messages > 0 ? 1 : 0;
    }
  }

  /// A list of functions, as JSON or, as some files have it, as its text.
  void parse_tools(const json& value) {
    const auto found = value.find("tools");
    if (found == value.end() || found->is_null() || record_.kind != RecordKind::kChat) {
      return;
    }
    const json tools = found->is_string() ? json::parse(found->get<std::string>(), nullptr, false) : *found;
    if (!tools.is_array()) {
      fail_field("tools", "a list of functions", describe(*found));
    }
    record_.tools = tools.empty() ? "" : tools.dump();
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

} // namespace

void rename_columns(
    const std::filesystem::path& file, json& value, const std::map<std::string, std::string>& columns, int64_t number,
    int64_t line) {
  if (columns.empty() || !value.is_object()) {
    return;
  }
  json renamed = json::object();
  for (const auto& [key, column] : columns) {
    if (!value.contains(column)) {
      Record record;
      record.number = number;
      record.line = line;
      throw FormatError(
          file, record.place() + ": expected the column " + quote(column) + ", which is to be `" + key + "`");
    }
    renamed[key] = value[column];
  }
  for (const auto& [name, content] : value.items()) {
    const bool is_taken =
        std::any_of(columns.begin(), columns.end(), [&](const auto& each) { return each.second == name; });
    if (!is_taken && !renamed.contains(name)) {
      renamed[name] = content;
    }
  }
  value = std::move(renamed);
}

Record parse_record(const std::filesystem::path& file, const json& value, int64_t number, int64_t line) {
  return RecordParser(file, number, line).parse(value);
}

} // namespace rora::detail
