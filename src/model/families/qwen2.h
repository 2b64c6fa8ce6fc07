#pragma once

#include <rora/model/families/family.h>

#include <memory>

namespace rora::detail {

/// Qwen2 and Qwen2.5 (transformers' `Qwen2ForCausalLM`): biases of q, k and v, and a window in the layers behind the
/// first `max_window_layers`, where `use_sliding_window` asks for one.
std::shared_ptr<const ModelFamily> qwen2_family();

/// The layers of `max_window_layers`, which Qwen's configs say beside the fields of `read_sliding_layers`, and the
/// other way round.
void read_qwen_windows(const JsonObject& config, DecoderOptions& options);
void write_qwen_windows(JsonFields& fields, const DecoderOptions& options);

} // namespace rora::detail
