#pragma once

#include <filesystem>

namespace rora::detail {

class JsonTokenizer;

/// Has the tokenizer of a tokenizer.json find the special tokens, too, that other files of its folder name and its own
/// list lacks, as transformers does. Throws `FormatError` for one that is not in the vocabulary, and for an id that
/// another token has: transformers would make tokens of them that the model has no rows for.
void add_named_tokens(const std::filesystem::path& folder, JsonTokenizer& tokenizer);

} // namespace rora::detail
