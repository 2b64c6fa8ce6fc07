#include "families.h"

#include "checkpoint/other_forms.h"

#include <rora/error.h>
#include <rora/model/decoder_options.h>

#include <c10/util/Exception.h>

namespace rora {

DecoderOptions read_model_config(const std::filesystem::path& folder_or_file) {
  detail::require_path(folder_or_file);
  const std::filesystem::file_status status = std::filesystem::status(folder_or_file);
  const bool file = std::filesystem::exists(status) && !std::filesystem::is_directory(status);
  const JsonObject config = JsonObject::read(file ? folder_or_file : folder_or_file / "config.json");
  const std::string type = config.string("model_type", DecoderOptions().model_type());
  const ModelFamily* family = detail::find_family(type);
  if (family == nullptr) {
    config.fail("model_type", detail::unsupported_model_type(type));
  }
  DecoderOptions options = family->read_config(config);
  options.model_type(type);
  try {
    options.validate();
  } catch (const c10::ValueError& error) {
    throw FormatError(config.path(), error.what_without_backtrace());
  }
  return options;
}

std::string model_config_json(const DecoderOptions& options, const std::string& torch_dtype) {
  return family_of(options.model_type()).write_config(options, torch_dtype).text();
}

} // namespace rora
