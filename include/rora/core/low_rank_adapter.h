#pragma once

#include <rora/core/adapter.h>
#include <rora/core/initializer.h>
#include <rora/core/linkage.h>
#include <rora/core/projection.h>
#include <rora/core/rora_linear_options.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// LoRA, RoRA and DoRA: W + s·B·A, with s = α/r or α/√r, and with DoRA's magnitude or without.
///
/// A, B and the magnitude are fp32 (fp64 beside an fp64 base), whatever the base's dtype; products run in the dtype of
/// x. Where the initializer rewrites the base, A and B as they began are kept as buffers, `initial_A` and `initial_B`:
/// while the adapter is active, W − s·initial_B·initial_A stands in W's place.
///
/// With `LowRankOptions::core` it is W + s·B·R·A: R is trained, and A and B are buffers that stay as they began. What
/// is said of A below is then true of R·A.
class LowRankAdapter : public Adapter {
 public:
  /// An adapter for `projection`, on its device. Throws for options out of range, also for rank 0, and for statistics
  /// that the initializer needs and that are not there.
  LowRankAdapter(
      const ProjectionImpl& projection, const LowRankOptions& options, const WeightStatistics& statistics = {});

  /// Begins anew: A, B and R by `options.initializer()`, then the magnitude from ‖W + s·B·A‖.
  void reset_parameters(const ProjectionImpl& projection, const WeightStatistics& statistics = {});

  /// s.
  double scale() const;

  /// From now on the adapter computes, while it trains, by the first `rank` rows of A and columns of B alone, at the
  /// scale that its alpha gives that rank; the others get no gradient. So each smaller rank is an adapter by itself
  /// (DyLoRA, arXiv 2210.07558; `RankSampler` draws the rank). With `last_only` those before the last are read and get
  /// no gradient either. Outside of training all ranks count, and everywhere again once no rank is given. Throws
  /// `c10::ValueError` for a rank that it has not, with DoRA or a core, whose magnitude and R are of all ranks, and
  /// over a rewritten base.
  void train_nested(std::optional<int64_t> rank, bool last_only = false);

  bool low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) override;

  bool can_merge() const override;

  /// W + s·B·A in fp32, times n by row for DoRA, rounded once.
  at::Tensor merged_weight(const ProjectionImpl& projection) const override;

  at::Tensor rewritten_weight(const ProjectionImpl& projection) const override;

  bool changes_output() const override;

  std::optional<std::string> why_not_captured() const override;

  /// s·A·x, and with DoRA the output, from which the magnitude's gradient comes, or with dropout on the adapter's input
  /// another tensor of its size.
  AdapterMemory memory(const ProjectionImpl& projection, bool output_kept) const override;

  std::vector<LowRankPair> pairs() const override;

  ParameterRole role(const std::string& parameter) const override;

  /// A, B and the magnitude; over a rewritten base [A; initial_A] and [B, −initial_B], of rank 2r at the same s, which
  /// do the same on W.
  std::vector<std::pair<std::string, at::Tensor>> saved_tensors() const override;

  void set_gradient_buffer(const std::string& parameter, std::shared_ptr<ops::GradientBuffer> buffer) override;

  std::shared_ptr<Adapter> empty_copy() const override;

  void load(torch::serialize::InputArchive& archive) override;

  void pretty_print(std::ostream& stream) const override;

  const LowRankOptions options;
  at::Tensor lora_A; ///< `[rank, in]`
  at::Tensor lora_B; ///< `[out, rank]`
  at::Tensor lora_R; ///< `[rank, rank]`, undefined without a core
  at::Tensor lora_magnitude_vector; ///< `[out]`, undefined without DoRA
  at::Tensor initial_A; ///< A as it began, undefined unless the base is rewritten
  at::Tensor initial_B; ///< B as it began, the same

 private:
  /// Tells whether a tensor is still what a norm was computed from: `torch::load` and `to` give it other memory, and
  /// all that writes into it another version.
  struct TensorVersion {
    const void* data = nullptr;
    int64_t values = 0;
    bool operator==(const TensorVersion&) const = default;
  };
  struct WeightVersion {
    uint64_t base = 0; ///< of the projection
    TensorVersion tensor; ///< of a dense weight
    bool operator==(const WeightVersion&) const = default;
  };

  /// Tensors without values.
  LowRankAdapter(const LowRankOptions& options, int64_t in, int64_t out, const at::TensorOptions& like);

  /// A, or R·A.
  at::Tensor read_factor() const;

  /// ‖W + s·B·A‖ by row. In evaluation mode it is kept, until the versions of A, B and W change or a pass has recorded
  /// gradients or gone backward: an optimiser may then write without raising versions, as `torch::optim::SGD` does by
  /// `.data()`. Such a write is missed by two passes in evaluation mode that it falls between. Threads may share an
  /// adapter that nobody changes, as they may any module.
  at::Tensor norm(const ProjectionImpl& projection) const;

  /// What `train_nested` said.
  struct NestedRank {
    int64_t rank = 0;
    bool last_only = false;
  };

  double scale_;
  std::optional<NestedRank> nested_;
  std::shared_ptr<ops::GradientBuffer> a_gradient_;
  std::shared_ptr<ops::GradientBuffer> b_gradient_;
  mutable std::mutex norm_mutex_; // guards the rest
  mutable at::Tensor weight_norm_squared_;
  mutable at::Tensor norm_;
  mutable WeightVersion weight_version_;
  mutable TensorVersion a_version_;
  mutable TensorVersion b_version_;
  mutable TensorVersion r_version_;
  mutable uint64_t passes_ = 0; ///< that there were when the norm was formed
  std::shared_ptr<std::atomic<uint64_t>> backward_passes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

} // namespace rora

#if !defined(RORA_LINKED)
#include <rora/core/low_rank_adapter_inl.h>
#endif
