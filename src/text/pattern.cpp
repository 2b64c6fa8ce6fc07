#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include "checkpoint/quote.h"
#include "text/regex_syntax.h"
#include "text/utf8.h"

#include <pcre2.h>
#include <nlohmann/json.hpp>

#include <c10/util/Exception.h>

#include <algorithm>
#include <ctime>
#include <optional>
#include <stdexcept>

namespace rora::detail {

namespace {

const pcre2_code* as_code(const std::shared_ptr<const void>& code) {
  return static_cast<const pcre2_code*>(code.get());
}

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// For an attempt at one place. Nested repeats take time that doubles with each character: they end here instead.
constexpr size_t kMatchLimit = 1'000'000;
constexpr size_t kStepsPerByte = 8; // a run of white space is gone back through, which is one step a byte
constexpr uint32_t kHeapLimitKiB = 256 * 1024;
constexpr size_t kWindow = 32; // places tried between two looks at the clock
constexpr double kSecondsPerByte = 2e-6; // sensible expressions take a tenth of that
constexpr double kSecondsForAny = 5.0;

double coarse_seconds() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &time); // without asking the kernel
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Why an expression could not be matched.
struct MatchFailure {
  std::string reason;
};

/// Finds matches of one expression in one text, from left to right.
class Matcher {
 public:
  Matcher(const pcre2_code* code, std::string_view text)
      : code_(code),
        text_(text),
        data_(pcre2_match_data_create_from_pattern(code, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    const size_t limit = kMatchLimit + kStepsPerByte * text.size();
    pcre2_set_match_limit(context_, static_cast<uint32_t>(std::min<size_t>(limit, UINT32_MAX)));
    pcre2_set_heap_limit(context_, kHeapLimitKiB);
  }
  ~Matcher() {
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
  }
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

  /// The first match that begins at `offset` or later. Throws `MatchFailure`.
  std::optional<Span> find_from(size_t offset) {
    check_time();
    for (; offset <= text_.size(); offset = after_window(offset)) {
      pcre2_set_offset_limit(context_, offset + kWindow - 1);
      int result = match(offset, PCRE2_NO_UTF_CHECK);
      if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
        result = match(offset, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT); // the interpreter keeps its state on the heap
      }
      if (result >= 0) {
        const PCRE2_SIZE* const offsets = pcre2_get_ovector_pointer(data_);
        return Span{offsets[0], offsets[1], true};
      }
      if (result != PCRE2_ERROR_NOMATCH) {
        throw MatchFailure{pcre2_message(result)};
      }
      check_time();
    }
    return std::nullopt;
  }

 private:
  int match(size_t offset, uint32_t options) {
    return pcre2_match(
        code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), offset, options, data_, context_);
  }

  /// Where the next character begins behind the places that were tried.
  size_t after_window(size_t offset) const {
    offset += kWindow;
    while (offset < text_.size() && (static_cast<unsigned char>(text_[offset]) & 0xC0) == 0x80) {
      ++offset;
    }
    return offset;
  }

  void check_time() const {
    if (coarse_seconds() - begin_ > kSecondsForAny + kSecondsPerByte * static_cast<double>(text_.size())) {
      throw MatchFailure{"it takes too long"};
    }
  }

  const pcre2_code* code_;
  std::string_view text_;
  pcre2_match_data* data_;
  pcre2_match_context* context_;
  double begin_ = coarse_seconds();
};

} // namespace

Pattern Pattern::literal(std::string text) {
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::regex(std::string_view expression) {
  return pcre2(to_pcre2_syntax(expression));
}

Pattern Pattern::pcre2(std::string_view expression) {
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_code* const code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_USE_OFFSET_LIMIT, &error, &error_offset, context.get());
  if (code == nullptr) {
    C10_THROW_ERROR(ValueError, pcre2_message(error));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); // without it the interpreter matches the same, only slower
  Pattern pattern;
  pattern.code_ = std::shared_ptr<const void>(
      code, [](const void* owned) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(owned))); });
  return pattern;
}

Pattern Pattern::from_json(const JsonField& field) {
  field.allow_only({"String", "Regex"});
  if (field.value().size() != 1) {
    field.fail("expected either String or Regex");
  }
  const JsonField expression = field["Regex"];
  if (expression.is_null()) {
    const JsonField text = field["String"];
    if (text.string().empty()) {
      text.fail("an empty string is not supported");
    }
    return literal(text.string());
  }
  try {
    Pattern pattern = regex(expression.string());
    pattern.place_ = expression.place();
    return pattern;
  } catch (const c10::ValueError& error) {
    expression.fail(std::string("this regular expression is not supported: ") + error.what_without_backtrace());
  }
}

bool Pattern::matches_empty() const {
  if (code_ == nullptr) {
    return literal_.empty();
  }
  uint32_t can_be_empty = 0;
  pcre2_pattern_info(as_code(code_), PCRE2_INFO_MATCHEMPTY, &can_be_empty);
  return can_be_empty != 0;
}

std::vector<Span> Pattern::find(std::string_view text) const {
  if (text.empty()) {
    return {};
  }
  if (code_ == nullptr) {
    return find_literal(text);
  }
  try {
    return find_regex(text);
  } catch (const MatchFailure& failure) {
    const std::string what = "the regular expression fails on the text " + quote(text) + ": " + failure.reason;
    if (place_) {
      place_->fail(what);
    }
    throw std::runtime_error(what);
  }
}

std::vector<Span> Pattern::find_literal(std::string_view text) const {
  std::vector<Span> spans;
  size_t end = 0;
  for (size_t begin = text.find(literal_); begin != std::string_view::npos; begin = text.find(literal_, end)) {
    if (begin > end) {
      spans.push_back({end, begin, false});
    }
    end = begin + literal_.size();
    spans.push_back({begin, end, true});
  }
  if (end < text.size()) {
    spans.push_back({end, text.size(), false});
  }
  return spans;
}

std::vector<Span> Pattern::find_regex(std::string_view text) const {
  std::vector<Span> spans;
  Matcher matcher(as_code(code_), text);
  size_t end = 0; // of the last match
  bool any = false;
  for (size_t from = 0; from <= text.size();) {
    const std::optional<Span> match = matcher.find_from(from);
    if (!match) {
      break;
    }
    if (match->begin == match->end && any && match->end == end) {
      from += from < text.size() ? character_length(text, from) : 1; // no empty match right after a match
      continue;
    }
    if (match->begin > end) {
      spans.push_back({end, match->begin, false});
    }
    spans.push_back(*match);
    from = end = match->end;
    any = true;
  }
  if (end < text.size()) {
    spans.push_back({end, text.size(), false});
  }
  return spans;
}

} // namespace rora::detail
