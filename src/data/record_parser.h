#pragma once

#include <rora/data/record.h>

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace rora::detail {

/// A record of one JSON value, as `read_records` says. Throws `FormatError` that names the record by its number and
/// line, and the field.
Record parse_record(
    const std::filesystem::path& file, const nlohmann::ordered_json& value, int64_t number, int64_t line);

/// Gives the columns of a record the names that `parse_record` knows: {{"instruction", "question"}}. Throws
/// `FormatError` where one is not there.
void rename_columns(
    const std::filesystem::path& file, nlohmann::ordered_json& value, const std::map<std::string, std::string>& columns,
    int64_t number, int64_t line);

} // namespace rora::detail
