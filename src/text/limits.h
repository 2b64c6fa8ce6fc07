#pragma once

#include "text/json_field.h"

#include <c10/util/Exception.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace rora::detail {

/// Tokenising takes about a hundred times a text's size for a while.
inline constexpr size_t kMaxTextBytes = size_t{16} << 20;

/// Of an added token: each of its bytes makes a node of the tree that finds it.
inline constexpr size_t kMaxAddedTokenBytes = 1024;

/// Throws `c10::ValueError` for a text that is too long to be encoded at once.
inline void check_text(std::string_view text) {
  TORCH_CHECK_VALUE(
      text.size() <= kMaxTextBytes, "a text of ", text.size(), " bytes is over the ", kMaxTextBytes,
      " that are tokenised at once");
}

/// Throws at `place`, whose steps of a tokenizer.json have made `grown` bytes of `original`, where that is far more
/// than any sensible ones make: each step may multiply a text's length.
inline void check_growth(const JsonPlace& place, size_t grown, size_t original) {
  if (grown > (size_t{1} << 20) + 16 * original) {
    place.fail(
        "it makes " + std::to_string(grown) + " bytes or more of a text of " + std::to_string(original) +
        ", over 16 times as many and 1 MiB");
  }
}

} // namespace rora::detail
