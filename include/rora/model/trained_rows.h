#pragma once

#include <rora/core/adapter.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <vector>

namespace rora {

/// Rows of a weight over the vocabulary, `[vocab, hidden]`, that are trained in place of the frozen ones: all of them
/// (PEFT's `modules_to_save`) or those of some tokens (its `trainable_token_indices`).
///
/// It begins as the frozen rows and, as every adapter, is in fp32 (fp64 beside an fp64 weight); lookups and products
/// are in the model's dtype. In the slot of an `Embedding` it changes what tokens enter as, and what a head tied to it
/// computes; in that of the head, the logits.
class TrainedRows : public Adapter {
 public:
  /// The rows of `tokens`, or all. Throws as `validate` does.
  explicit TrainedRows(
      const ProjectionImpl& projection, const std::optional<std::vector<int64_t>>& tokens = std::nullopt);

  /// Throws `c10::ValueError` for no token, one twice, and one outside a vocabulary of that size.
  static void validate(const std::vector<int64_t>& tokens, int64_t vocab_size);

  /// The rows of input_ids `[...]`, int64, as they are now: `[..., hidden]`.
  at::Tensor embed(const ProjectionImpl& projection, const at::Tensor& input_ids) const;

  /// The weight with the trained rows in place, `[vocab, hidden]` in the frozen one's dtype: a copy that gradients
  /// flow through.
  at::Tensor weight_of(const ProjectionImpl& projection) const;

  /// x `[..., hidden]` → `[..., vocab]`, bias and all.
  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override;

  bool can_merge() const override;
  at::Tensor merged_weight(const ProjectionImpl& projection) const override;
  std::shared_ptr<Adapter> empty_copy() const override;

  /// The indices stay int64, which `torch::nn::Module::to` would convert too.
  using Adapter::to;
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::ScalarType dtype, bool non_blocking = false) override;

  void pretty_print(std::ostream& stream) const override;

  /// The tokens whose rows are trained, in the order of the rows; nothing where all are.
  std::optional<std::vector<int64_t>> tokens() const;

  at::Tensor weight; ///< `[vocab, hidden]`; undefined where the rows of some tokens are trained
  at::Tensor trainable_tokens_delta; ///< `[tokens, hidden]`, under PEFT's name; undefined where all rows are trained
  at::Tensor token_indices; ///< int64 `[tokens]`, undefined with it

 private:
  TrainedRows() = default;
};

} // namespace rora
