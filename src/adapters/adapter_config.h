#pragma once

#include <rora/adapters/adapter_options.h>

#include <filesystem>
#include <string>

namespace rora::detail {

/// `adapter_config.json` from its text. Throws `FormatError`.
AdapterOptions parse_adapter_config(const std::filesystem::path& path, const std::string& text);

/// The text of `adapter_config.json`.
std::string adapter_config_json(const AdapterOptions& options, const std::string& base_model);

} // namespace rora::detail
