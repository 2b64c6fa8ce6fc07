#include "text/charsmap.h"

#include "text/utf8.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

namespace rora::detail {

namespace {

static_assert(std::endian::native == std::endian::little, "a charsmap is little-endian");

constexpr size_t kMaxUnits = size_t{1} << 20; // those of Unicode's NFKC with case folding are about 65 thousand
constexpr size_t kMaxSpelling = 256; // bytes of what is replaced, and of what takes its place
constexpr int kMaxMatches = 32; // for so many that begin at one place sentencepiece has room

[[noreturn]] void refuse(const char* what) {
  C10_THROW_ERROR(ValueError, what);
}

/// One unit of a double array, as Darts-clone lays out its bits.
struct Unit {
  uint32_t bits;

  bool is_of(uint32_t byte) const {
    return (bits & (uint32_t{1} << 31 | 0xFF)) == byte;
  }
  bool has_value() const {
    return (bits >> 8 & 1) != 0;
  }
  uint32_t value() const {
    return bits & ~(uint32_t{1} << 31);
  }
  uint32_t offset() const {
    return (bits >> 10) << ((bits & uint32_t{1} << 9) >> 6);
  }
};

/// Walks every path that a search may take.
class Trie {
 public:
  Trie(std::vector<Unit> units, std::string_view replacements)
      : units_(std::move(units)), replacements_(replacements), below_(units_.size()) {}

  void check() {
    if (visit(0, 0).length > kMaxSpelling) {
      refuse("it spells more than 256 bytes");
    }
  }

 private:
  /// The longest of the paths that go on from a unit: one unit may end many paths, and is walked through once.
  struct Below {
    uint16_t length = 0;
    uint16_t matches = 0;
    bool visited = false;
  };

  Below visit(size_t index, size_t depth) {
    if (below_[index].visited) {
      return below_[index];
    }
    if (depth > kMaxSpelling) { // so a cycle ends, too
      refuse("it spells more than 256 bytes");
    }
    const size_t base = index ^ units_[index].offset();
    if ((base | 0xFF) >= units_.size()) { // a search looks at base ^ byte for any byte
      refuse("its trie leads outside of its array");
    }
    Below longest;
    if (units_[index].has_value()) {
      check_replacement(units_[base].value());
    }
    for (uint32_t byte = 0; byte < 256; ++byte) {
      if (units_[base ^ byte].is_of(byte)) {
        const Below child = visit(base ^ byte, depth + 1);
        longest.length = std::max<uint16_t>(longest.length, child.length + 1);
        longest.matches = std::max<uint16_t>(longest.matches, child.matches);
      }
    }
    longest.matches += units_[index].has_value() ? 1 : 0;
    if (longest.matches > kMaxMatches) {
      refuse("more than 32 of what it spells begin alike");
    }
    longest.visited = true;
    below_[index] = longest;
    return longest;
  }

  void check_replacement(size_t begin) const {
    if (begin >= replacements_.size()) {
      refuse("its trie names a replacement that it does not hold");
    }
    const std::string_view window = replacements_.substr(begin, kMaxSpelling + 1);
    const std::string_view replacement = window.substr(0, window.find('\0'));
    if (replacement.size() == window.size()) {
      refuse("a replacement has no end within 256 bytes");
    }
    if (to_valid_utf8(replacement) != replacement) {
      refuse("a replacement is not UTF-8");
    }
  }

  std::vector<Unit> units_;
  std::string_view replacements_;
  std::vector<Below> below_;
};

} // namespace

void check_charsmap(std::string_view charsmap) {
  uint32_t size = 0;
  if (charsmap.size() < sizeof(size)) {
    refuse("it is cut off");
  }
  std::memcpy(&size, charsmap.data(), sizeof(size));
  charsmap.remove_prefix(sizeof(size));
  if (size > charsmap.size()) {
    refuse("it is cut off");
  }
  if (size == 0 || size % sizeof(Unit) != 0 || size / sizeof(Unit) > kMaxUnits) {
    refuse("its trie has no size that is supported");
  }
  std::vector<Unit> units(size / sizeof(Unit));
  std::memcpy(units.data(), charsmap.data(), size);
  Trie(std::move(units), charsmap.substr(size)).check();
}

} // namespace rora::detail
