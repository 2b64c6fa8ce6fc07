#pragma once

#include <rora/core/projection.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>

namespace rora {

/// The table of the vectors that tokens enter a model as: a frozen `weight` `[vocab, hidden]` and, as in any
/// projection, a slot for adapters, of which it takes `TrainedRows`.
///
/// Its `forward` looks tokens up, as `torch::nn::Embedding`'s does. `ProjectionImpl::forward` maps hidden states to
/// logits: so it serves as the head of a model whose head is tied to it.
class EmbeddingImpl : public ProjectionImpl {
 public:
  /// A weight of the given sizes, uninitialised.
  EmbeddingImpl(int64_t vocab_size, int64_t hidden_size);

  /// input_ids `[...]`, int64 → `[..., hidden]`. Throws `c10::ValueError` where an adapter is active that changes no
  /// rows.
  at::Tensor forward(const at::Tensor& input_ids) const;

  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;
  void pretty_print(std::ostream& stream) const override;
};
TORCH_MODULE(Embedding);

} // namespace rora
