#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rora {

class ProjectionImpl;
struct LowRankOptions;

/// What is known of a weight before its adapter begins: each is there where the initializer asks for it.
struct WeightStatistics {
  at::Tensor gradient; ///< the mean of ∂L/∂W over some batches, `[out, in]` in fp32
  at::Tensor input_mean; ///< the mean of x over tokens, `[in]`
  at::Tensor input_moment; ///< the mean of x·xᵀ over tokens, `[in, in]`
  /// What `Initializer::condense` has made of them, by names of its own; they may then be gone.
  std::map<std::string, at::Tensor> condensed{};
};

/// A weight whose adapter's rank is chosen.
struct RankCandidate {
  std::string module;
  int64_t in_features = 0;
  int64_t out_features = 0;
  const WeightStatistics* statistics = nullptr; ///< condensed
};

/// What an initializer chose for a weight: r and α of s·B·A.
struct ChosenRank {
  int64_t rank = 0; ///< 0: no adapter
  double alpha = 0.0;
};

/// The tensors that an initializer fills.
struct InitialFactors {
  at::Tensor a; ///< `[rank, in]`
  at::Tensor b; ///< `[out, rank]`
  double scale = 1.0; ///< s of W + s·B·A
  at::Tensor r{}; ///< R `[rank, rank]` of W + s·B·R·A, the identity; undefined without `LowRankOptions::core`
};

/// How a low-rank adapter begins.
class Initializer {
 public:
  virtual ~Initializer();

  /// The value of `init_lora_weights` that a folder's config holds: "true", "gaussian" ….
  virtual std::string name() const = 0;

  /// What is read of `WeightStatistics`. The moment comes with the mean.
  virtual bool needs_gradient() const;
  virtual bool needs_input_moment() const;

  /// Makes of a gradient or moments the small tensors that the functions below read (`WeightStatistics::condensed`), so
  /// that those of a few weights at a time are held whole. `rank` is the one asked for. By default nothing: they are
  /// read as they are. Throws `c10::ValueError`.
  virtual void condense(const ProjectionImpl& projection, int64_t rank, WeightStatistics& statistics) const;

  /// The rank and alpha of each candidate, where they are not those of `options`; by default none: they are. Throws
  /// `c10::ValueError` for what no ranks fulfil.
  virtual std::vector<ChosenRank> choose_ranks(
      const std::vector<RankCandidate>& candidates, const LowRankOptions& options) const;

  /// Whether W − s·B·A, with the factors as they begin, takes W's place, so that the adapted layer begins as the frozen
  /// one.
  virtual bool rewrites_base() const;

  /// Fills A and B, and may fill R, for `projection`. W is `projection.original_weight()`: its `weight` may be another
  /// adapter's.
  virtual void initialize(
      const ProjectionImpl& projection, const WeightStatistics& statistics, InitialFactors factors) const = 0;
};

/// A uniform in ±1/√in, as `torch::nn::Linear`'s weight, and B zero: what PEFT's `init_lora_weights=True` means.
std::shared_ptr<const Initializer> kaiming_uniform();

/// A normal with deviation 1/rank, and B zero: PEFT's "gaussian".
std::shared_ptr<const Initializer> gaussian();

} // namespace rora

#if !defined(RORA_LINKED)
#include <rora/core/initializer_inl.h>
#endif
