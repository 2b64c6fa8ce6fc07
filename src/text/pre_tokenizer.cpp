#include "text/pre_tokenizer.h"

#include "checkpoint/quote.h"
#include "text/byte_level.h"
#include "text/json_field.h"
#include "text/limits.h"
#include "text/metaspace.h"
#include "text/pattern.h"
#include "text/unicode_additions.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace rora::detail {

namespace {

/// What becomes of a match when a piece is cut at it.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

constexpr std::array<std::pair<const char*, SplitBehavior>, 5> kSplitBehaviors = {{
    {"Removed", SplitBehavior::kRemoved},
    {"Isolated", SplitBehavior::kIsolated},
    {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
    {"MergedWithNext", SplitBehavior::kMergedWithNext},
    {"Contiguous", SplitBehavior::kContiguous},
}};

SplitBehavior split_behavior_from_json(const JsonField& field) {
  const std::string name = field.string();
  for (const auto& [each, behavior] : kSplitBehaviors) {
    if (name == each) {
      return behavior;
    }
  }
  field.fail("expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, found " + quote(name));
}

/// The parts that `behavior` makes of matches and what lies between them.
std::vector<Span> arrange(std::vector<Span> spans, SplitBehavior behavior) {
  if (behavior == SplitBehavior::kIsolated) {
    return spans;
  }
  if (behavior == SplitBehavior::kRemoved) {
    std::erase_if(spans, [](const Span& span) { return span.matched; });
    return spans;
  }
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) {
    std::reverse(spans.begin(), spans.end());
  }
  std::vector<Span> parts;
  bool previous_matched = false;
  for (const Span& span : spans) {
    const bool joins =
        behavior == SplitBehavior::kContiguous ? span.matched == previous_matched : span.matched && !previous_matched;
    previous_matched = span.matched;
    if (!joins || parts.empty()) {
      parts.push_back(span);
    } else if (backwards) {
      parts.back().begin = span.begin;
    } else {
      parts.back().end = span.end;
    }
  }
  if (backwards) {
    std::reverse(parts.begin(), parts.end());
  }
  return parts;
}

void append_parts(
    const Piece& piece, const Pattern& pattern, SplitBehavior behavior, bool invert, std::vector<Piece>& pieces) {
  std::vector<Span> spans = pattern.find(piece.text);
  if (invert) {
    for (Span& span : spans) {
      span.matched = !span.matched;
    }
  }
  for (const Span& part : arrange(std::move(spans), behavior)) {
    if (part.begin < part.end) {
      pieces.push_back({piece.text.substr(part.begin, part.end - part.begin), piece.begins_text && part.begin == 0});
    }
  }
}

class SplitPreTokenizer : public PreTokenizer {
 public:
  SplitPreTokenizer(Pattern pattern, SplitBehavior behavior, bool invert = false)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  static std::unique_ptr<PreTokenizer> from_json(const JsonField& field) {
    field.allow_only({"type", "pattern", "behavior", "invert"});
    return std::make_unique<SplitPreTokenizer>(
        Pattern::from_json(field["pattern"]), split_behavior_from_json(field["behavior"]), field["invert"].boolean());
  }

  std::vector<Piece> split(std::vector<Piece> pieces) const override {
    std::vector<Piece> parts;
    for (const Piece& piece : pieces) {
      append_parts(piece, pattern_, behavior_, invert_, parts);
    }
    return parts;
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

std::unique_ptr<PreTokenizer> digits_from_json(const JsonField& field) {
  field.allow_only({"type", "individual_digits"});
  const bool individual = field["individual_digits"].boolean();
  // The last two ranges came with Unicode 17, which the library that defines the format has here alone.
  const std::string numbers = "[\\p{N}" + unicode_additions("N") + "\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";
  return std::make_unique<SplitPreTokenizer>(
      Pattern::pcre2(numbers), individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
}

class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  explicit ByteLevelPreTokenizer(const JsonField& field)
      : pattern_(Pattern::regex("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")) {
    field.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"}); // trim_offsets changes no ids
    add_prefix_space_ = field["add_prefix_space"].boolean();
    use_regex_ = field["use_regex"].boolean_or(true);
  }

  std::vector<Piece> split(std::vector<Piece> pieces) const override {
    std::vector<Piece> parts;
    for (Piece& piece : pieces) {
      if (add_prefix_space_ && !piece.text.starts_with(' ')) {
        piece.text.insert(0, " ");
      }
      if (use_regex_) {
        append_parts(piece, pattern_, SplitBehavior::kIsolated, /*invert=*/false, parts);
      } else {
        parts.push_back(std::move(piece));
      }
    }
    for (Piece& part : parts) {
      part.text = to_byte_level(part.text);
    }
    return parts;
  }

 private:
  Pattern pattern_; // GPT-2's
  bool add_prefix_space_;
  bool use_regex_;
};

class MetaspacePreTokenizer : public PreTokenizer {
 public:
  explicit MetaspacePreTokenizer(const JsonField& field)
      : metaspace_(field), separator_(Pattern::literal(metaspace_.replacement)) {}

  std::vector<Piece> split(std::vector<Piece> pieces) const override {
    static const Pattern space = Pattern::literal(" ");
    std::vector<Piece> parts;
    for (const Piece& piece : pieces) {
      Piece replaced{"", piece.begins_text};
      for (const Span& span : space.find(piece.text)) {
        replaced.text += span.matched ? metaspace_.replacement : piece.text.substr(span.begin, span.end - span.begin);
      }
      const bool prepends = metaspace_.prepend_scheme == PrependScheme::kAlways ||
          (metaspace_.prepend_scheme == PrependScheme::kFirst && piece.begins_text);
      if (prepends && !replaced.text.starts_with(metaspace_.replacement)) {
        replaced.text.insert(0, metaspace_.replacement);
      }
      if (metaspace_.split) {
        append_parts(replaced, separator_, SplitBehavior::kMergedWithNext, /*invert=*/false, parts);
      } else {
        parts.push_back(std::move(replaced));
      }
    }
    return parts;
  }

  bool depends_on_start() const override {
    return metaspace_.prepend_scheme == PrependScheme::kFirst;
  }

 private:
  Metaspace metaspace_;
  Pattern separator_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(const JsonField& field) : place_(field.place()) {
    field.allow_only({"type", "pretokenizers"});
    for (const JsonField& element : field["pretokenizers"].elements()) {
      element.object();
      pre_tokenizers_.push_back(pre_tokenizer_from_json(element));
    }
  }
  std::vector<Piece> split(std::vector<Piece> pieces) const override {
    const size_t original = size_of(pieces);
    for (const auto& pre_tokenizer : pre_tokenizers_) {
      pieces = pre_tokenizer->split(std::move(pieces));
      check_growth(place_, size_of(pieces), original);
    }
    return pieces;
  }
  bool depends_on_start() const override {
    return std::any_of(
        pre_tokenizers_.begin(), pre_tokenizers_.end(), [](const auto& each) { return each->depends_on_start(); });
  }

 private:
  static size_t size_of(const std::vector<Piece>& pieces) {
    return std::accumulate(pieces.begin(), pieces.end(), size_t{0}, [](size_t size, const Piece& piece) {
      return size + piece.text.size();
    });
  }

  JsonPlace place_;
  std::vector<std::unique_ptr<PreTokenizer>> pre_tokenizers_;
};

} // namespace

std::unique_ptr<PreTokenizer> pre_tokenizer_from_json(const JsonField& field) {
  if (field.is_null()) {
    return nullptr;
  }
  const std::string type = field["type"].string();
  if (type == "Sequence") {
    return std::make_unique<PreTokenizerSequence>(field);
  }
  if (type == "Split") {
    return SplitPreTokenizer::from_json(field);
  }
  if (type == "Digits") {
    return digits_from_json(field);
  }
  if (type == "ByteLevel") {
    return std::make_unique<ByteLevelPreTokenizer>(field);
  }
  if (type == "Metaspace") {
    return std::make_unique<MetaspacePreTokenizer>(field);
  }
  field["type"].fail("expected Sequence, Split, Digits, ByteLevel or Metaspace, found " + quote(type));
}

} // namespace rora::detail
