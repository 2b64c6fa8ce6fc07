#include "checkpoint/safetensors_writer.h"

#include "checkpoint/quote.h"
#include "checkpoint/safetensors_header.h"

#include <nlohmann/json.hpp>

#include <c10/util/Exception.h>

#include <string_view>
#include <unordered_set>

namespace rora {

namespace detail {

namespace {

std::string json_string(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    C10_THROW_ERROR(ValueError, "save_safetensors: a name or metadata string is not valid UTF-8");
  }
}

void check_tensor(const std::string& name, const at::Tensor& tensor) {
  const std::string where = "save_safetensors: tensor " + quote(name);
  if (name == kMetadataKey) {
    C10_THROW_ERROR(ValueError, where + ": the format keeps this name for metadata");
  }
  if (!tensor.defined()) {
    C10_THROW_ERROR(ValueError, where + " is undefined");
  }
  if (tensor.layout() != at::kStrided || tensor.is_meta()) {
    C10_THROW_ERROR(ValueError, where + " has no dense data");
  }
  if (dtype_name(tensor.scalar_type()).empty()) {
    C10_THROW_ERROR(
        ValueError,
        where + ": dtype " + c10::toString(tensor.scalar_type()) + " is not one that safetensors files hold here");
  }
}

/// The header's length and text, in the reference implementation's spelling: no spaces but those at the end, which make
/// the data start at a multiple of 8.
std::string header_bytes(const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  const auto separate = [&](char opening) {
    if (text.back() != opening) {
      text += ',';
    }
  };
  if (!metadata.empty()) {
    text += json_string(std::string(kMetadataKey)) + ":{";
    for (const auto& [key, value] : metadata) {
      separate('{');
      text += json_string(key) + ":" + json_string(value);
    }
    text += "}";
  }
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    separate('{');
    text += json_string(name) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.scalar_type())) + "\",\"shape\":[";
    for (const int64_t size : tensor.sizes()) {
      separate('[');
      text += std::to_string(size);
    }
    const uint64_t end = offset + static_cast<uint64_t>(tensor.nbytes());
    text += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    C10_THROW_ERROR(ValueError, "save_safetensors: the header is over the format's limit of 100 MB");
  }
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

} // namespace

void check_saveable(const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
  std::unordered_set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    check_tensor(name, tensor);
    if (!names.insert(name).second) {
      C10_THROW_ERROR(ValueError, "save_safetensors: tensor " + quote(name) + " is given twice");
    }
  }
  header_bytes(tensors, metadata);
}

void write_safetensors(
    AtomicFile& file, const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
  file.write(header_bytes(tensors, metadata));
  for (const auto& [name, tensor] : tensors) {
    // One at a time, so that tensors of another device or layout need memory for the largest only.
    const at::Tensor dense = tensor.detach().to(at::kCPU).resolve_conj().resolve_neg().contiguous();
    file.write(dense.const_data_ptr(), dense.nbytes());
  }
}

} // namespace detail

void save_safetensors(
    const std::filesystem::path& path, const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata) {
  detail::check_saveable(tensors, metadata);
  detail::AtomicFile file(path);
  detail::write_safetensors(file, tensors, metadata);
  file.commit();
}

} // namespace rora
