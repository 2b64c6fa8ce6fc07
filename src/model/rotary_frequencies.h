#pragma once

#include <rora/model/llama_options.h>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <utility>

namespace rora::detail {

/// The angle a position adds to each pair, fp32 `[head_dim / 2]`. `length` is how many positions are in use, which
/// dynamic scaling follows once it exceeds the trained length.
at::Tensor rotary_frequencies(const LlamaOptions& options, int64_t length);

/// cos and sin of `position_ids` `[batch, seq]`, fp32 `[batch, seq, head_dim]` on `device`. Dynamic scaling looks at
/// the positions where they lie.
std::pair<at::Tensor, at::Tensor> rotary_tables(
    const LlamaOptions& options, const at::Tensor& position_ids, at::Device device);

} // namespace rora::detail
