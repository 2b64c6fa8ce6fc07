#pragma once

#include <rora/ops/attention.h>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

namespace rora {

/// What a forward pass reads beside the weights, made from a `ModelInput` on the host. Once it lies on the model's
/// device (`on`), the host reads none of its elements: the pass needs no copy to a GPU and never waits for one.
struct PreparedInput {
  at::Tensor input_ids; ///< int64 `[batch, seq]`; undefined where `inputs_embeds` is not
  at::Tensor inputs_embeds; ///< `[batch, seq, hidden]` on the model's device, or undefined
  at::Tensor positions; ///< int64 `[batch or 1, seq]`
  at::Tensor frequencies; ///< fp32 `[head_dim / 2]`: the angle that a position adds
  at::Tensor sliding_frequencies; ///< the same of layers with a window, where they have their own; or undefined
  ops::Sequences sequences; ///< with boundaries where the model is on a GPU
  at::Tensor chosen; ///< int64, of batch·seq: the only tokens whose states are wanted. Undefined: all

  /// The tensors that a host makes, defined or not: all but `inputs_embeds`.
  std::vector<at::Tensor*> tensors();

  /// The same on `device`; from the CPU to a GPU without waiting.
  PreparedInput on(at::Device device) const;
};

/// What the loss of a batch reads beside the weights.
struct PreparedLoss {
  /// Its `chosen` are those tokens whose states predict a label; undefined where nearly all do and a GPU computes them.
  PreparedInput input;
  at::Tensor targets; ///< int64 `[chosen]`, or of all tokens: the labels, or `kIgnoreIndex`
  int64_t tokens = 0; ///< targets that count

  std::vector<at::Tensor*> tensors();
  PreparedLoss on(at::Device device) const;
};

} // namespace rora
