#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace rora::cli {

/// Gives the config.json in `to` the fields of the one in `from` that this library does not know of. What it knows
/// reads as before: where it would not, the fields that were written stay. Dtype, tying and the fields in `changed`
/// are always those that were written.
void keep_config_fields(
    const std::filesystem::path& from, const std::filesystem::path& to, const std::vector<std::string>& changed = {});

} // namespace rora::cli
