#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

namespace rora {

/// The label or target of a token that has neither a loss nor a gradient, as in transformers and LibTorch.
inline constexpr int64_t kIgnoreIndex = -100;

namespace ops {

/// Σ_t −log softmax(weight·hidden_t)[target_t], a scalar in fp32 (fp64 for fp64).
///
/// hidden `[tokens, hidden]`, weight `[vocab, hidden]`, targets int64 `[tokens]`, `kIgnoreIndex` or an id. Logits exist
/// for `chunk` tokens at a time (0: `cross_entropy_chunk`), in hidden's dtype; gradients of `hidden`, and of `weight`
/// where it is trained, are formed in the same pass. Throws `c10::IndexError` for another target outside the
/// vocabulary; `targets` may lie on the CPU whatever hidden's device, and finding that out then waits for no GPU.
at::Tensor token_cross_entropy(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t chunk = 0);

/// How many tokens' logits exist at a time by default: as many as take 32 MiB, or 512 MiB on a GPU.
int64_t cross_entropy_chunk(int64_t vocab, int64_t element_size, at::Device device = at::kCPU);

} // namespace ops
} // namespace rora
