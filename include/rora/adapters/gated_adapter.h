#pragma once

#include <rora/core/adapter.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// y = W·x + s·B·diag(g)·A·x + bias: a low-rank change whose every rank has a number of its own, its gate, by which a
/// method tells ranks that count from others (AdaLoRA, SoRA).
///
/// A `[rank, in]`, g `[rank, 1]` and B `[out, rank]` in fp32 (fp64 beside an fp64 base) are trained; products run in
/// the dtype of x. A rank whose gate is 0 is as good as none.
class GatedAdapter : public Adapter {
 public:
  /// s.
  virtual double scale() const = 0;

  /// The probability of dropping an element of A's input while training.
  virtual double dropout() const = 0;

  bool low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) override;

  bool can_merge() const override;

  /// W + s·B·diag(g)·A in fp32, rounded once.
  at::Tensor merged_weight(const ProjectionImpl& projection) const override;

  /// Whether a gate and a number of B are other than 0.
  bool changes_output() const override;

  /// Nothing is decided on the host, but for dropout's seeds.
  std::optional<std::string> why_not_captured() const override;

  /// s·diag(g)·A·x.
  AdapterMemory memory(const ProjectionImpl& projection, bool output_kept) const override;

  /// A's and B's: LoRA+ has B learn faster. With g between them they are no pair.
  ParameterRole role(const std::string& parameter) const override;

  at::Tensor lora_A; ///< A
  at::Tensor gate; ///< g
  at::Tensor lora_B; ///< B

 protected:
  /// Tensors without values. `gate_name`: the gate's among the parameters.
  GatedAdapter(const std::string& gate_name, int64_t rank, int64_t in, int64_t out, const at::TensorOptions& like);

  /// In fp32, or in fp64 beside such a base, on the projection's device.
  static at::TensorOptions options_beside(const ProjectionImpl& projection);
};

} // namespace rora
