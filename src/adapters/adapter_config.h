#pragma once

#include <rora/adapters/adapter_options.h>

#include <filesystem>
#include <string>
#include <vector>

namespace rora::detail {

/// `adapter_config.json` from its text. Throws `FormatError`.
AdapterOptions parse_adapter_config(const std::filesystem::path& path, const std::string& text);

/// Which of `modules`, those that a folder has tensors of, its config means. Throws `c10::ValueError` for a target that
/// means none of them, where no exclude_modules may be why.
std::vector<std::string> targeted_in_folder(const AdapterOptions& options, std::vector<std::string> modules);

/// The text of `adapter_config.json`.
std::string adapter_config_json(const AdapterOptions& options, const std::string& base_model);

} // namespace rora::detail
