#pragma once

#include <rora/model/decoder_options.h>

#include <ATen/core/Tensor.h>

#include <utility>

namespace rora::detail {

/// The angle a position adds to each pair, fp32 `[head_dim / 2]`. `length` is how many positions are in use, which
/// dynamic scaling follows once it exceeds the trained length. `rope` is that of `options` or of its sliding layers.
at::Tensor rotary_frequencies(const DecoderOptions& options, const RopeOptions& rope, int64_t length);

/// Those for `position_ids`, on the CPU. Dynamic scaling looks at the positions where they lie.
at::Tensor rotary_frequencies(const DecoderOptions& options, const RopeOptions& rope, const at::Tensor& position_ids);

/// cos and sin of `position_ids` `[batch, seq]`, fp32 `[batch, seq, head_dim]`, by `frequencies` beside them.
std::pair<at::Tensor, at::Tensor> rotary_tables(const at::Tensor& position_ids, const at::Tensor& frequencies);

} // namespace rora::detail
