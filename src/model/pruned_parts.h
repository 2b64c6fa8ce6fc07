#pragma once

#include <rora/model/decoder.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rora::detail {

/// The decoder of a model that can be pruned. Throws as `rora::prune` does.
const DecoderForCausalLMImpl& prunable_decoder(const CausalLMImpl& model);

/// A layer, with the sizes of what is taken from it whole.
struct PrunableLayer {
  std::string prefix; ///< "model.layers.0."
  DecoderLayerImpl* layer = nullptr;
  int64_t groups = 0; ///< heads of keys and values
  int64_t query_width = 0; ///< rows of q that a group has
  int64_t head_dim = 0; ///< rows of k and of v that it has
  int64_t channels = 0;
};

std::vector<PrunableLayer> prunable_layers(const DecoderForCausalLMImpl& decoder);

} // namespace rora::detail
