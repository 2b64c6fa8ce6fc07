#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>

namespace rora::detail {

/// A character and the two that it is composed of, the first of which may itself be composed; `second` is 0 for a
/// character that is another in disguise.
struct Decomposition {
  char32_t composed;
  char32_t first;
  char32_t second = 0;
};

/// Characters `first` to `last`, marks of Unicode's Canonical_Combining_Class `value`.
struct CombiningClass {
  char32_t first;
  char32_t last;
  uint8_t value;
};

/// Pairs that NFC composes, pairs that it leaves apart, and characters that it replaces by one other. Hangul syllables
/// are not among them. They are what the library that defines tokenizer.json knows, which is Unicode 9.
c10::ArrayRef<Decomposition> composed_pairs();
c10::ArrayRef<Decomposition> excluded_pairs();
c10::ArrayRef<Decomposition> singletons();

/// The marks whose class is not 0, in order.
c10::ArrayRef<CombiningClass> combining_classes();

} // namespace rora::detail
