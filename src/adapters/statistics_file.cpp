#include <rora/adapters/weight_statistics.h>

#include "../checkpoint/digest.h"

#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include <ATen/ATen.h>

#include <utility>

namespace rora {
namespace {

constexpr const char* kFormat = "format";
constexpr const char* kFormatName = "rora weight statistics";
constexpr const char* kDigest = "digest"; // of all tensors
constexpr const char* kGradient = "gradient";
constexpr const char* kInputMean = "input_mean";
constexpr const char* kInputMoment = "input_moment";
constexpr const char* kCondensed = "condensed.";

/// Between a module and the name of one of its statistics: no module's name holds it.
constexpr char kSeparator = ':';

at::Tensor* place_of(WeightStatistics& own, const std::string& name) {
  if (name == kGradient) {
    return &own.gradient;
  }
  if (name == kInputMean) {
    return &own.input_mean;
  }
  if (name == kInputMoment) {
    return &own.input_moment;
  }
  return name.starts_with(kCondensed) ? &own.condensed[name.substr(std::string(kCondensed).size())] : nullptr;
}

std::string digest_of(const NamedTensors& tensors) {
  detail::Digest digest;
  const std::map<std::string, at::Tensor> sorted(tensors.begin(), tensors.end()); // empty ones may stand anywhere
  for (const auto& [name, tensor] : sorted) {
    const at::Tensor dense = tensor.detach().cpu().contiguous();
    digest.add(name);
    digest.add(dense.sizes().vec());
    digest.add_bytes(dense.const_data_ptr(), dense.nbytes());
  }
  return digest.text();
}

void check_made_from(const SafetensorsFile& file, const std::map<std::string, std::string>& made_from) {
  const auto& metadata = file.metadata();
  const auto format = metadata.find(kFormat);
  if (format == metadata.end() || format->second != kFormatName) {
    throw FormatError(file.path(), "holds no statistics of weights");
  }
  for (const auto& [name, value] : made_from) {
    const auto found = metadata.find(name);
    if (found == metadata.end() || found->second != value) {
      throw FormatError(
          file.path(),
          "'" + name + "' was " + (found == metadata.end() ? "not said" : "'" + found->second + "'") + " and is now '" +
              value + "': these statistics are of another start");
    }
  }
  for (const auto& [name, value] : metadata) {
    if (!made_from.empty() && made_from.count(name) == 0 && name != kFormat && name != kDigest) {
      throw FormatError(
          file.path(), "'" + name + "' was '" + value + "' and is now not said: these statistics are of another start");
    }
  }
}

} // namespace

void save_statistics(
    const std::filesystem::path& path, const StatisticsByModule& statistics,
    const std::map<std::string, std::string>& made_from) {
  NamedTensors tensors;
  for (const auto& [module, own] : statistics) {
    const auto add = [&tensors, module = module](const std::string& name, const at::Tensor& tensor) {
      if (tensor.defined()) {
        tensors.emplace_back(module + kSeparator + name, tensor);
      }
    };
    add(kGradient, own.gradient);
    add(kInputMean, own.input_mean);
    add(kInputMoment, own.input_moment);
    for (const auto& [name, tensor] : own.condensed) {
      add(kCondensed + name, tensor);
    }
  }
  auto metadata = made_from;
  metadata[kFormat] = kFormatName;
  metadata[kDigest] = digest_of(tensors);
  save_safetensors(path, tensors, metadata);
}

StatisticsByModule load_statistics(
    const std::filesystem::path& path, const std::map<std::string, std::string>& made_from) {
  const SafetensorsFile file(path);
  check_made_from(file, made_from);
  StatisticsByModule statistics;
  NamedTensors tensors;
  for (const std::string& key : file.names()) {
    const size_t separator = key.rfind(kSeparator);
    at::Tensor* place = separator == std::string::npos
        ? nullptr
        : place_of(statistics[key.substr(0, separator)], key.substr(separator + 1));
    if (place == nullptr) {
      throw FormatError(path, "tensor " + key + " is no statistic of a weight");
    }
    *place = file.tensor(key).clone();
    tensors.emplace_back(key, *place);
    if (!place->is_floating_point() || !place->isfinite().all().item<bool>()) {
      throw FormatError(path, key + " must hold finite numbers of floating point");
    }
  }
  const auto written = file.metadata().find(kDigest);
  if (written == file.metadata().end() || written->second != digest_of(tensors)) {
    throw FormatError(path, "is damaged: its tensors are not those that were written");
  }
  return statistics;
}

} // namespace rora
