#pragma once

#include <rora/text/tokenizer.h>

#include "fuzz_case.h"

namespace rora::fuzz {

/// Loads the folder's tokenizer and runs texts through it, some of which nobody would think of.
inline void run_tokenizer(const std::filesystem::path& folder) {
  const auto tokenizer = load_tokenizer(folder);
  for (const std::string_view text :
       {"Once upon a time", "", " \n\t x", "caf\xC3\xA9 \xFF\xFE 123 <unk><s>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        "\xE2\x96\x81 Don't 12345 \xF0\x9F\x98\x80 \xEF\xBC\xA1\xE3\x8D\xBF\xEF\xB7\xBA",
        "\xCC\x81\xCC\xA7 e\xCC\x81\xCC\xA7 \xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8 \xE2\x84\xAB"}) {
    const std::vector<int64_t> ids = tokenizer->encode(text);
    for (const int64_t id : ids) {
      if (id < 0 || id >= tokenizer->vocab_size()) {
        fail("an id outside the vocabulary");
      }
    }
    tokenizer->decode(ids);
    tokenizer->decode(ids, true);
  }
}

} // namespace rora::fuzz
