#include "adapter_files.h"

#include "../checkpoint/atomic_file.h"
#include "../checkpoint/other_forms.h"

#include <rora/error.h>

#include <ATen/ATen.h>

#include <sstream>

namespace rora::detail {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

} // namespace

SafetensorsFile open_adapter_weights(const std::filesystem::path& folder, bool mapped) {
  std::error_code ignored;
  if (!std::filesystem::exists(folder / kWeightsFile, ignored)) {
    throw FileError(folder, std::string("holds no ") + kWeightsFile + weights_in_another_form(folder, "adapter_model"));
  }
  return SafetensorsFile(folder / kWeightsFile, mapped);
}

void check_adapter_tensor(const SafetensorsFile& file, const std::string& key, const std::vector<int64_t>& shape) {
  if (!file.contains(key)) {
    throw FormatError(file.path(), "tensor " + key + " is missing");
  }
  if (const auto found = file.shape(key); found != shape) {
    throw FormatError(file.path(), key + " must have shape " + shape_text(shape) + ", not " + shape_text(found));
  }
  const at::Tensor stored = file.tensor(key);
  if (!stored.is_floating_point() || !at::isfinite(stored).all().item<bool>()) {
    throw FormatError(file.path(), key + " must hold finite numbers of floating point");
  }
}

void fail_for_tensor_beyond(const SafetensorsFile& file, const std::string& key) {
  throw FormatError(file.path(), "tensor " + key + " belongs to no module that " + kConfigFile + " targets");
}

void write_adapter_files(
    const std::filesystem::path& folder, const std::string& config, const std::map<std::string, at::Tensor>& tensors) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw FileError(folder, "cannot be made: " + error.message());
  }
  // The config is on the disk before the weights take their place, so that a full disk leaves the folder as it was.
  AtomicFile config_file(folder / kConfigFile);
  config_file.write(config);
  config_file.flush();
  save_safetensors(folder / kWeightsFile, NamedTensors(tensors.begin(), tensors.end()));
  config_file.commit();
}

} // namespace rora::detail
