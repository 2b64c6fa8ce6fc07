#pragma once

#include <rora/model/families/family.h>

#include <filesystem>
#include <initializer_list>
#include <string>

namespace rora::detail {

/// The family of that type, or null.
const ModelFamily* find_family(const std::string& model_type);

/// "'bert' is not supported (llama is)".
std::string unsupported_model_type(const std::string& model_type);

/// `read_shared_config` but for the rotary embedding.
DecoderOptions read_config_without_rope(const ModelFamily& family, const JsonObject& config);

/// One `rope_scaling` or `rope_parameters` object; `theta` where it names none.
RopeOptions read_rope(const JsonObject& rope, double theta);

/// The activation of a field, under the names that transformers has for it.
Activation read_activation(const JsonObject& config, const char* field, const char* absent);

/// What q·k are multiplied by.
double attention_multiplier(const DecoderOptions& options);

/// Throws `FormatError` where a field asks for something that models of this family have not.
void refuse_fields(const JsonObject& config, std::initializer_list<const char*> fields);

/// Throws `c10::ValueError` where the config.json that the options' family has made of them, to be written to `path`,
/// does not read back as them: it has no field for one of them.
void check_reads_back(const DecoderOptions& options, const std::filesystem::path& path, const std::string& json);

} // namespace rora::detail
