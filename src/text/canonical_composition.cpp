#include "text/canonical_composition.h"

#include "text/canonical_tables.h"
#include "text/utf8.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rora::detail {

namespace {

// Below it no character is a mark, so that each is composed already.
constexpr char32_t kFirstMark = 0x300;

// Hangul's syllables are composed by arithmetic (the Unicode standard, section 3.12).
constexpr char32_t kSyllables = 0xAC00;
constexpr char32_t kLeading = 0x1100;
constexpr char32_t kVowels = 0x1161;
constexpr char32_t kTrailing = 0x11A7; // for none; the first that trails is behind it
constexpr char32_t kLeadingCount = 19;
constexpr char32_t kVowelCount = 21;
constexpr char32_t kTrailingCount = 28;
constexpr char32_t kSyllableCount = kLeadingCount * kVowelCount * kTrailingCount;

uint64_t pair_key(char32_t first, char32_t second) {
  return uint64_t{first} << 32 | second;
}

struct Tables {
  Tables() {
    for (const Decomposition& each : composed_pairs()) {
      decompositions[each.composed] = {each.first, each.second};
      compositions[pair_key(each.first, each.second)] = each.composed;
    }
    for (const auto& others : {excluded_pairs(), singletons()}) {
      for (const Decomposition& each : others) {
        decompositions[each.composed] = {each.first, each.second};
      }
    }
  }

  std::unordered_map<char32_t, std::pair<char32_t, char32_t>> decompositions;
  std::unordered_map<uint64_t, char32_t> compositions;
};

const Tables& tables() {
  static const Tables tables;
  return tables;
}

uint8_t combining_class(char32_t character) {
  const c10::ArrayRef<CombiningClass> classes = combining_classes();
  const auto entry = std::lower_bound(
      classes.begin(), classes.end(), character,
      [](const CombiningClass& each, char32_t wanted) { return each.last < wanted; });
  return entry == classes.end() || character < entry->first ? 0 : entry->value;
}

/// The character that is composed of both; 0 where there is none.
char32_t composition(char32_t first, char32_t second) {
  // Unsigned: what lies below a range is far above it once its begin is taken away.
  if (first - kLeading < kLeadingCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailingCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTrailingCount == 0 &&
      second - kTrailing - 1 < kTrailingCount - 1) {
    return first + (second - kTrailing);
  }
  const auto entry = tables().compositions.find(pair_key(first, second));
  return entry == tables().compositions.end() ? 0 : entry->second;
}

/// Takes decomposed characters one by one and appends them composed to a text.
class Composer {
 public:
  explicit Composer(std::string& text) : text_(text) {}

  void add_decomposed(char32_t character) {
    if (character - kSyllables < kSyllableCount) {
      const char32_t index = character - kSyllables;
      add(kLeading + index / (kVowelCount * kTrailingCount));
      add(kVowels + index / kTrailingCount % kVowelCount);
      if (index % kTrailingCount != 0) {
        add(kTrailing + index % kTrailingCount);
      }
      return;
    }
    const auto entry = tables().decompositions.find(character);
    if (entry == tables().decompositions.end()) {
      add(character);
      return;
    }
    add_decomposed(entry->second.first);
    if (entry->second.second != 0) {
      add_decomposed(entry->second.second);
    }
  }

  void finish() {
    compose();
    write();
  }

 private:
  struct Character {
    char32_t code_point;
    uint8_t combining_class;
  };

  void add(char32_t character) {
    const uint8_t its_class = combining_class(character);
    if (its_class == 0 && !run_.empty()) {
      compose();
      if (run_.size() == 1 && run_.front().combining_class == 0) {
        if (const char32_t both = composition(run_.front().code_point, character)) {
          run_.front().code_point = both;
          return;
        }
      }
      write();
    }
    run_.push_back({character, its_class});
  }

  /// Sorts the run's marks by their classes and joins with its first character those that no other of theirs blocks.
  void compose() {
    if (run_.size() < 2) {
      return;
    }
    const bool has_starter = run_.front().combining_class == 0;
    std::stable_sort(
        run_.begin() + (has_starter ? 1 : 0), run_.end(),
        [](const Character& left, const Character& right) { return left.combining_class < right.combining_class; });
    if (!has_starter) {
      return;
    }
    size_t kept = 1;
    for (size_t index = 1; index < run_.size(); ++index) {
      const bool blocked = kept > 1 && run_[kept - 1].combining_class == run_[index].combining_class;
      const char32_t both = blocked ? 0 : composition(run_.front().code_point, run_[index].code_point);
      if (both != 0) {
        run_.front().code_point = both;
      } else {
        run_[kept++] = run_[index];
      }
    }
    run_.resize(kept);
  }

  void write() {
    for (const Character& each : run_) {
      text_ += to_utf8(each.code_point);
    }
    run_.clear();
  }

  std::string& text_;
  std::vector<Character> run_; // a character of class 0, but for a text's begin, and the marks behind it
};

} // namespace

std::string to_nfc(std::string_view text) {
  std::string normalized;
  normalized.reserve(text.size());
  Composer composer(normalized);
  size_t begin = 0; // of what is not added yet
  for (size_t offset = 0; offset < text.size();) {
    const size_t length = character_length(text, offset);
    const size_t next = offset + length;
    const bool has_mark = next < text.size() && code_point_at(text, next) >= kFirstMark;
    if (code_point_at(text, offset) < kFirstMark && !has_mark) {
      offset = next;
      continue;
    }
    // The character before a mark may be composed with it, and so may what follows.
    normalized += text.substr(begin, offset - begin);
    for (begin = offset; begin < text.size() && (begin == offset || code_point_at(text, begin) >= kFirstMark);) {
      composer.add_decomposed(code_point_at(text, begin));
      begin += character_length(text, begin);
    }
    composer.finish();
    offset = begin;
  }
  return normalized += text.substr(begin);
}

} // namespace rora::detail
