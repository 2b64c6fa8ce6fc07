#include <rora/model/decoder_options.h>

#include <stdexcept>
#include <string>

namespace rora {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) {
    throw std::invalid_argument(message);
  }
}

void require_positive(const char* field, int64_t value) {
  require(value > 0, std::string(field) + " must be positive, not " + std::to_string(value));
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

void DecoderOptions::validate() const {
  require_positive("vocab_size", vocab_size_);
  require_positive("hidden_size", hidden_size_);
  require_positive("intermediate_size", intermediate_size_);
  require_positive("num_hidden_layers", num_hidden_layers_);
  require_positive("num_attention_heads", num_attention_heads_);
  require_positive("max_position_embeddings", max_position_embeddings_);
  require(rms_norm_eps_ > 0, "rms_norm_eps must be positive");
  require(rope_.theta() > 0, "rope_theta must be positive");
  require(rope_.factor() > 0, "rope_scaling's factor must be positive");
  require(num_key_value_heads_ >= 0, "num_key_value_heads must not be negative");
  require(head_dim_ >= 0, "head_dim must not be negative");
  require(
      head_dim_ > 0 || hidden_size_ % num_attention_heads_ == 0,
      "hidden_size " + std::to_string(hidden_size_) + " is not a multiple of num_attention_heads " +
          std::to_string(num_attention_heads_) + " and head_dim is absent");
  require(
      resolved_head_dim() % 2 == 0,
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
}

} // namespace rora
