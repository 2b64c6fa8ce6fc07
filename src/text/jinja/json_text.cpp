#include "text/jinja/value.h"
#include "text/utf8.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace rora::detail::jinja {

namespace {

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {
    between_ = !style.item_separator.empty() ? style.item_separator : (style.indent >= 0 ? "," : ", ");
  }

  std::string write(const Value& value) {
    append(value, 0);
    return std::move(text_);
  }

 private:
  void append(const Value& value, int64_t level) {
    if (value.is_none()) {
      text_ += "null";
    } else if (value.is_bool()) {
      text_ += value.truth() ? "true" : "false";
    } else if (value.is_float()) {
      text_ += number(value.number());
    } else if (value.is_number()) {
      text_ += value.text();
    } else if (value.is_string()) {
      append_string(value.string());
    } else if (const Sequence* const sequence = value.sequence(); sequence != nullptr && !sequence->is_generator) {
      append_all('[', ']', sequence->items, level, [&](const Value& item) { append(item, level + 1); });
    } else if (const Dictionary* const dictionary = value.dictionary()) {
      append_all('{', '}', sorted(dictionary->entries()), level, [&](const auto& entry) {
        append_string(key_of(entry.first));
        text_ += style_.key_separator;
        append(entry.second, level + 1);
      });
    } else {
      throw Failure("Object of type " + value.type_name() + " is not JSON serializable");
    }
  }

  static std::string number(double value) {
    if (std::isfinite(value)) {
      return text_of(value);
    }
    return std::isnan(value) ? "NaN" : (value < 0 ? "-Infinity" : "Infinity");
  }

  std::string key_of(const Value& key) const {
    if (key.is_string()) {
      return key.string();
    }
    if (key.is_number() || key.is_none()) {
      JsonStyle plain;
      return to_json(key, plain);
    }
    throw Failure("keys must be str, int, float, bool or None, not " + key.type_name());
  }

  std::vector<std::pair<Value, Value>> sorted(const std::vector<std::pair<Value, Value>>& entries) const {
    std::vector<std::pair<Value, Value>> copy = entries;
    if (style_.sort_keys) {
      std::stable_sort(copy.begin(), copy.end(), [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    return copy;
  }

  void begin_line(int64_t level) {
    if (style_.indent >= 0) {
      text_ += '\n';
      text_.append(static_cast<size_t>(level * style_.indent), ' ');
    }
  }

  template <typename Items, typename Append>
  void append_all(char opening, char closing, const Items& items, int64_t level, Append append_item) {
    text_ += opening;
    bool is_first = true;
    for (const auto& item : items) {
      text_ += is_first ? "" : between_;
      is_first = false;
      begin_line(level + 1);
      append_item(item);
    }
    if (!items.empty()) {
      begin_line(level);
    }
    text_ += closing;
  }

  void append_string(const std::string& string) {
    text_ += '"';
    for (size_t offset = 0; offset < string.size();) {
      const size_t length = character_length(string, offset);
      const char32_t c = code_point_at(string, offset);
      static constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
      static constexpr std::string_view kLetters = "\"\\nrtbf";
      const size_t known = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : std::string_view::npos;
      if (known != std::string_view::npos) {
        text_ += {'\\', kLetters[known]};
      } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7F)) {
        append_escape(c);
      } else {
        text_.append(string, offset, length);
      }
      offset += length;
    }
    text_ += '"';
  }

  void append_escape(char32_t c) {
    if (c > 0xFFFF) { // two surrogates
      append_escape(0xD800 + ((c - 0x10000) >> 10));
      append_escape(0xDC00 + ((c - 0x10000) & 0x3FF));
      return;
    }
    std::array<char, 8> escape{};
    std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
    text_ += escape.data();
  }

  const JsonStyle& style_;
  std::string between_;
  std::string text_;
};

} // namespace

std::string to_json(const Value& value, const JsonStyle& style) {
  return JsonWriter(style).write(value);
}

} // namespace rora::detail::jinja
