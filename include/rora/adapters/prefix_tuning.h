#pragma once

#include <rora/model/module_adapter.h>

#include <torch/arg.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace rora {

class AdapterKind;

/// The options of prefix tuning (Li and Liang, arXiv 2101.00190), in PEFT's form without a projection of the prefix:
/// \code
/// rora::attach_adapters(*model, rora::AdapterOptions().kind(rora::prefix_tuning()));
/// \endcode
struct PrefixTuningOptions {
  /// n, the keys and values in front of each row.
  TORCH_ARG(int64_t, num_virtual_tokens) = 30;
  /// Each number begins as N(0, σ²): with 1 as PEFT's do, with 0 as its "zero". Even zeros change what the model
  /// computes: a key of zeros takes part in every softmax.
  TORCH_ARG(double, initial_std) = 1.0;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// Trained keys and values in front of an attention's own: softmax(q·[P_k; K]ᵀ/√head_dim)·[P_v; V].
///
/// The keys are as they are behind rotary positions, at the positions 0 … n−1; the row's tokens stand behind them. In
/// fp32 (fp64 beside an fp64 model). It costs n more keys a token. No weight does the same: it is never merged.
/// `DisableAdapters`, of projections alone, leaves it on; `AttentionImpl::set_adapters_enabled` switches it off.
class PrefixAdapter : public AttentionAdapter {
 public:
  /// A prefix for `attention`, on its device. Throws for options out of range.
  PrefixAdapter(const AttentionImpl& attention, const PrefixTuningOptions& options);

  std::pair<at::Tensor, at::Tensor> prefix(const AttentionImpl& attention) override;
  int64_t prefix_length() const override;
  bool takes_positions() const override;

  /// Nothing: no value is looked at on the host.
  std::optional<std::string> why_not_captured() const override;

  void pretty_print(std::ostream& stream) const override;

  at::Tensor key_value_prefix; ///< `[n, 2, kv_heads, head_dim]`: keys, values
};

/// The kind of these adapters, for `AdapterOptions::kind`: one in every attention of the model. Folders are PEFT's,
/// peft_type PREFIX_TUNING, and hold one tensor `prompt_embeddings` `[n, 2·L·kv_heads·head_dim]`: of each virtual token
/// the key of layer 0, its value, the key of layer 1 … Throws `c10::ValueError` for options out of range.
std::shared_ptr<const AdapterKind> prefix_tuning(const PrefixTuningOptions& options = {});

} // namespace rora
