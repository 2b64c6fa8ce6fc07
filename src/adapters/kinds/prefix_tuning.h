#pragma once

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/prefix_tuning.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora::detail {

/// What a folder says of the model that its prefix is for. Null where it says nothing, and of a model whose layers
/// differ.
struct PrefixSizes {
  std::optional<int64_t> num_layers;
  std::optional<int64_t> num_attention_heads; ///< of keys and values
  std::optional<int64_t> token_dim; ///< kv_heads·head_dim
};

/// PEFT's PREFIX_TUNING, without a projection.
class PrefixTuningKind final : public AttentionAdapterKind {
 public:
  explicit PrefixTuningKind(const PrefixTuningOptions& options, const PrefixSizes& sizes = {});

  std::string peft_type() const override;
  void check(const std::vector<AttentionSlot>& attentions) const override;
  std::shared_ptr<AttentionAdapter> make_adapter(const AttentionImpl& attention) const override;
  std::vector<AdapterTensor> stored(const std::vector<AttentionSlot>& attentions) const override;
  std::vector<at::Tensor> store(const std::vector<AttentionSlot>& attached) const override;
  void restore(const std::vector<at::Tensor>& tensors, const std::vector<AttentionSlot>& attached) const override;
  void write(JsonFields& config) const override;
  void describe(JsonFields& fields) const override;
  std::shared_ptr<const AdapterKind> as_saved(const std::vector<AttentionSlot>& attached) const override;

 private:
  const PrefixTuningOptions options_;
  const PrefixSizes sizes_;
};

AdapterKindEntry prefix_tuning_entry();

} // namespace rora::detail
