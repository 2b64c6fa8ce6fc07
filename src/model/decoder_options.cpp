#include <rora/model/decoder_options.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace rora {
namespace {

void require(bool holds, const std::string& message) {
  TORCH_CHECK_VALUE(holds, message);
}

/// Products of two sizes, which no model comes near, stay within 64 bits.
constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxLayers = 10'000;

void require_within(const char* field, int64_t value, int64_t least, int64_t most) {
  const std::string found = ", not " + std::to_string(value);
  require(value >= least, std::string(field) + (least > 0 ? " must be positive" : " must not be negative") + found);
  require(value <= most, std::string(field) + " must be at most " + std::to_string(most) + found);
}

} // namespace

int64_t DecoderOptions::resolved_head_dim() const {
  return head_dim_ > 0 ? head_dim_ : hidden_size_ / num_attention_heads_;
}

LayerShape DecoderOptions::layer_shape(int64_t layer) const {
  if (!layer_shapes_.empty()) {
    return layer_shapes_.at(static_cast<size_t>(layer));
  }
  const int64_t kv_heads = num_key_value_heads_ > 0 ? num_key_value_heads_ : num_attention_heads_;
  return {num_attention_heads_, kv_heads, intermediate_size_};
}

int64_t DecoderOptions::window(int64_t layer) const {
  const bool slides =
      layer_types_.empty() || layer_types_.at(static_cast<size_t>(layer)) == LayerType::kSlidingAttention;
  return slides ? sliding_window_ : 0;
}

bool DecoderOptions::rotates(int64_t layer) const {
  return no_rope_layers_.empty() || no_rope_layers_.at(static_cast<size_t>(layer)) != 0;
}

void DecoderOptions::validate() const {
  require_within("vocab_size", vocab_size_, 1, kMaxSize);
  require_within("hidden_size", hidden_size_, 1, kMaxSize);
  require_within("intermediate_size", intermediate_size_, 0, kMaxSize);
  require_within("num_hidden_layers", num_hidden_layers_, 1, kMaxLayers);
  require_within("num_attention_heads", num_attention_heads_, head_dim_ > 0 ? 0 : 1, kMaxSize);
  require_within("num_key_value_heads", num_key_value_heads_, 0, kMaxSize);
  require_within("head_dim", head_dim_, 0, kMaxSize);
  require_within("max_position_embeddings", max_position_embeddings_, 1, std::numeric_limits<int64_t>::max());
  require(rms_norm_eps_ > 0, "rms_norm_eps must be positive");
  for (const RopeOptions& rope : {rope_, sliding_rope_.value_or(rope_)}) {
    require(rope.theta() > 0, "rope_theta must be positive");
    require(rope.factor() > 0, "rope_scaling's factor must be positive");
  }
  require(qk_norm_ || !qk_norm_of_all_heads_, "qk_norm_of_all_heads needs qk_norm");
  require(
      head_dim_ > 0 || hidden_size_ % num_attention_heads_ == 0,
      "hidden_size " + std::to_string(hidden_size_) + " is not a multiple of num_attention_heads " +
          std::to_string(num_attention_heads_) + " and head_dim is absent");
  const bool any_rotates =
      no_rope_layers_.empty() || std::count(no_rope_layers_.begin(), no_rope_layers_.end(), 0) < num_hidden_layers_;
  require(
      !any_rotates || resolved_head_dim() % 2 == 0,
      "head_dim must be even for rotary positions, not " + std::to_string(resolved_head_dim()));
  require(
      layer_shapes_.empty() || static_cast<int64_t>(layer_shapes_.size()) == num_hidden_layers_,
      "layer_shapes must name each of the " + std::to_string(num_hidden_layers_) + " layers");
  const int64_t unlike_layers = layer_shapes_.empty() ? 1 : num_hidden_layers_;
  for (int64_t layer = 0; layer < unlike_layers; ++layer) {
    const LayerShape shape = layer_shape(layer);
    const std::string where = "layer " + std::to_string(layer) + ": ";
    require(shape.intermediate_size >= 0, where + "intermediate_size must not be negative");
    require(shape.num_attention_heads >= 0, where + "num_attention_heads must not be negative");
    require(
        shape.num_attention_heads == 0 ||
            (shape.num_key_value_heads > 0 && shape.num_attention_heads % shape.num_key_value_heads == 0),
        where + "num_attention_heads " + std::to_string(shape.num_attention_heads) +
            " is not a multiple of num_key_value_heads " + std::to_string(shape.num_key_value_heads));
  }
  const auto each_layer = [&](const char* field, size_t size) {
    require(
        size == 0 || static_cast<int64_t>(size) == num_hidden_layers_,
        std::string(field) + " must name each of the " + std::to_string(num_hidden_layers_) + " layers");
  };
  each_layer("layer_types", layer_types_.size());
  each_layer("no_rope_layers", no_rope_layers_.size());
  for (const int64_t rotates : no_rope_layers_) {
    require(rotates == 0 || rotates == 1, "no_rope_layers must hold 0 and 1, not " + std::to_string(rotates));
  }
  require(sliding_window_ >= 0, "sliding_window must not be negative");
  require(
      sliding_window_ > 0 || std::count(layer_types_.begin(), layer_types_.end(), LayerType::kSlidingAttention) == 0,
      "layer_types has sliding layers, but sliding_window is absent");
  const auto require_multiplier = [](const char* field, double value) {
    require(std::isfinite(value) && value != 0.0, std::string(field) + " must be finite and not 0");
  };
  require_multiplier("embedding_multiplier", embedding_multiplier_);
  require_multiplier("residual_multiplier", residual_multiplier_);
  require_multiplier("logits_scaling", logits_scaling_);
  require(
      std::isfinite(attention_multiplier_) && attention_multiplier_ >= 0.0,
      "attention_multiplier must be finite and not negative");
}

} // namespace rora
