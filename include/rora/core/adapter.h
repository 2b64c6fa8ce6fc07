#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

class ProjectionImpl;
namespace ops {
class GradientBuffer;
struct LowRankTerm;
} // namespace ops

/// What a trained tensor of an adapter is, for an optimiser that treats the factors of a product unlike.
enum class ParameterRole {
  kA, ///< the factor that reads the input, `[rank, in]`
  kB, ///< the factor that writes the output, `[out, rank]`
  kMagnitude, ///< DoRA's, `[out]`
  kOther,
};

/// The two factors of one change of a weight: ΔW = scale·B·A.
struct LowRankPair {
  at::Tensor a; ///< `[rank, in]`
  at::Tensor b; ///< `[out, rank]`
  double scale = 1.0;
};

/// Numbers a token, in the model's dtype, that an adapter keeps for its backward.
struct AdapterMemory {
  bool input = true; ///< whether it reads the projection's input once more
  int64_t hidden = 0; ///< of its own: s·A·x of a low-rank adapter
  int64_t outputs = 0; ///< of the output: DoRA's
};

/// What adapters were attached with, kept by each of them for `save_adapter`.
class AdapterConfig {
 public:
  virtual ~AdapterConfig() = default;
};

/// What a projection's slot holds: a small trained change of a frozen linear map.
///
/// An adapter is either a low-rank term, which runs together with those of other projections of the same input, or
/// computes by `forward`. What else the library asks of an adapter has an answer here that is safe for any kind.
class Adapter : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;

  /// Fills in the adapter's part of `term` and returns true where it is a `low_rank_linear`.
  virtual bool low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term);

  /// The adapted projection of x `[..., in]`, bias and all: `[..., out]`. Asked for where there is no low-rank term.
  virtual at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x);

  /// Whether one weight does what projection and adapter do together.
  virtual bool can_merge() const;

  /// That weight `[out, in]`, rounded once to the base's dtype. Throws where there is none.
  virtual at::Tensor merged_weight(const ProjectionImpl& projection) const;

  /// What takes the base weight's place `[out, in]` while the adapter is active (PiSSA, LoRA-GA); undefined: nothing.
  virtual at::Tensor rewritten_weight(const ProjectionImpl& projection) const;

  /// Whether the adapted layer may differ from the frozen one.
  virtual bool changes_output() const;

  /// Why a CUDA graph cannot capture it; nothing where one can.
  virtual std::optional<std::string> why_not_captured() const;

  /// What it keeps a token. `output_kept`: another operation keeps the projection's output already.
  virtual AdapterMemory memory(const ProjectionImpl& projection, bool output_kept) const;

  /// Its trained factors, pair by pair; none for an adapter without.
  virtual std::vector<LowRankPair> pairs() const;

  /// What the parameter of that name is.
  virtual ParameterRole role(const std::string& parameter) const;

  /// What a folder stores: tensors that do the same on the base as it was loaded. By default the parameters.
  virtual std::vector<std::pair<std::string, at::Tensor>> saved_tensors() const;

  /// Where the gradient of the parameter of that name may be written at once; null: nowhere. Nothing by default:
  /// autograd then makes the gradient, and it is copied.
  virtual void set_gradient_buffer(const std::string& parameter, std::shared_ptr<ops::GradientBuffer> buffer);

  /// An adapter of the same kind and sizes, whose tensors `clone` then fills. Throws for a kind that has none.
  virtual std::shared_ptr<Adapter> empty_copy() const;

  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;

  /// Adapters are in fp32 whatever dtype is asked for, but for fp64.
  using torch::nn::Module::to;
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::ScalarType dtype, bool non_blocking = false) override;

  /// Null for an adapter that was put into its slot by hand.
  std::shared_ptr<const AdapterConfig> config;

 protected:
  static at::ScalarType wide(at::ScalarType dtype) {
    return dtype == at::kDouble ? at::kDouble : at::kFloat;
  }

 private:
  void copy_tensors(const Adapter& other, const std::optional<at::Device>& device);
  void clone_(torch::nn::Module& other, const std::optional<at::Device>& device) override;
};

} // namespace rora

#if !defined(RORA_LINKED)
#include <rora/core/adapter_inl.h>
#endif
