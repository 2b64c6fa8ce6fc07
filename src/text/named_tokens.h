#pragma once

#include <filesystem>

namespace rora::detail {

class JsonTokenizer;

/// Has the tokenizer of a tokenizer.json find the special tokens, too, that other files of its folder name and its own
/// list lacks, as transformers does. Where tokenizer_config.json lists tokens by their ids, that file alone is read.
/// Throws `FormatError` for a token that is not in the vocabulary, for which transformers would make up an id, and for
/// one with another id than there.
void add_named_tokens(const std::filesystem::path& folder, JsonTokenizer& tokenizer);

} // namespace rora::detail
