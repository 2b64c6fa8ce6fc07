#pragma once

#include <rora/text/tokenizer.h>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rora::testing {

/// A file of JSON, in the order of its keys.
nlohmann::ordered_json read_test_json(const std::filesystem::path& path);

void write_test_json(const std::filesystem::path& path, const nlohmann::ordered_json& document);

/// Expects of `tokenizer` what each row says of its text: "ids" and "decoded", and "ids_without_special" and
/// "decoded_without_special" where the row has them.
void expect_rows(const Tokenizer& tokenizer, const nlohmann::ordered_json& rows);

/// The line that loading `folder` throws as a `FormatError`, without the folder's path; "" where it throws nothing.
std::string refusal(const std::filesystem::path& folder, TokenizerKind kind = TokenizerKind::kAuto);

} // namespace rora::testing
