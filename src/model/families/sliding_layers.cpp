#include "sliding_layers.h"

#include <algorithm>

namespace rora::detail {
namespace {

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";

std::vector<LayerType> read_layer_types(const JsonObject& config, int64_t layers) {
  std::vector<LayerType> types;
  for (const std::string& name : config.strings("layer_types")) {
    if (name != kFull && name != kSliding) {
      config.fail("layer_types", "'" + name + "' is not supported (" + kFull + " and " + kSliding + " are)");
    }
    types.push_back(name == kSliding ? LayerType::kSlidingAttention : LayerType::kFullAttention);
  }
  if (static_cast<int64_t>(types.size()) != layers) {
    config.fail("layer_types", "must name each of the " + std::to_string(layers) + " layers");
  }
  return types;
}

} // namespace

int64_t read_sliding_window(const JsonObject& config, int64_t absent) {
  if (!config.has("sliding_window")) {
    return config.contains("sliding_window") ? 0 : absent;
  }
  const int64_t window = config.integer("sliding_window");
  if (window <= 0) {
    config.fail("sliding_window", "must be positive, not " + std::to_string(window));
  }
  return window;
}

void read_sliding_layers(
    const JsonObject& config, DecoderOptions& options, int64_t window, const std::string& missing,
    const std::function<bool(int64_t layer)>& slides) {
  std::vector<LayerType> types;
  if (config.has("layer_types")) {
    types = read_layer_types(config, options.num_hidden_layers());
  } else {
    for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
      types.push_back(slides(layer) ? LayerType::kSlidingAttention : LayerType::kFullAttention);
    }
  }
  if (std::count(types.begin(), types.end(), LayerType::kSlidingAttention) == 0) {
    return;
  }
  if (window == 0) {
    config.fail("layer_types", std::string("names layers of ") + kSliding + ", but " + missing);
  }
  options.sliding_window(window).layer_types(std::move(types));
}

void read_sliding_layers(
    const JsonObject& config, DecoderOptions& options, int64_t absent_window,
    const std::function<bool(int64_t layer)>& slides) {
  const bool used = config.boolean("use_sliding_window", false);
  const int64_t window = used ? read_sliding_window(config, absent_window) : 0;
  const char* missing = used ? "sliding_window is null" : "use_sliding_window is not true";
  read_sliding_layers(config, options, window, missing, [&](int64_t layer) { return window > 0 && slides(layer); });
}

std::vector<std::string> layer_type_names(const DecoderOptions& options) {
  std::vector<std::string> types;
  for (int64_t layer = 0; layer < options.num_hidden_layers(); ++layer) {
    types.emplace_back(options.window(layer) > 0 ? kSliding : kFull);
  }
  return types;
}

void write_sliding_layers(JsonFields& fields, const DecoderOptions& options) {
  const std::vector<std::string> types = layer_type_names(options);
  const bool any = std::count(types.begin(), types.end(), kSliding) > 0;
  fields.set("use_sliding_window", any);
  if (any) {
    fields.set("sliding_window", options.sliding_window()).set("layer_types", types);
  } else {
    fields.set("sliding_window", nullptr).remove("layer_types");
  }
}

} // namespace rora::detail
