#pragma once

#include <rora/core/dora_dropout.h>
#include <rora/core/scaling.h>

#include <torch/arg.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>

namespace rora {

class Initializer;

/// The options of a low-rank adapter, apart from the sizes of its projection.
struct LowRankOptions {
  /// Columns of B and rows of A; 0 is no adapter.
  TORCH_ARG(int64_t, rank) = 16;
  /// The numerator of the scale.
  TORCH_ARG(double, alpha) = 16.0;
  /// How the scale follows from alpha and rank.
  TORCH_ARG(Scaling, scaling) = Scaling::kRankStabilized;
  /// Whether a magnitude is trained apart from the direction.
  TORCH_ARG(bool, dora) = false;
  /// The probability of dropping an element of the adapter's input while training.
  TORCH_ARG(double, dropout) = 0.0;
  /// What dropout falls on in DoRA.
  TORCH_ARG(ops::DoraDropout, dora_dropout) = ops::DoraDropout::kInput;
  /// How A and B begin; null: `kaiming_uniform()`.
  TORCH_ARG(std::shared_ptr<const Initializer>, initializer);
  /// Whether a square R `[rank, rank]` between B and A is trained in their place, which stay as they begin (LoRA-SB,
  /// EDoRA). B must not begin at 0 then, so an initializer is needed.
  TORCH_ARG(bool, core) = false;

 public:
  /// Throws naming the option that is out of range.
  void validate() const {
    TORCH_CHECK_VALUE(rank_ >= 0, "rank must not be negative: ", rank_);
    TORCH_CHECK_VALUE(std::isfinite(alpha_), "alpha must be finite: ", alpha_);
    TORCH_CHECK_VALUE(dropout_ >= 0.0 && dropout_ < 1.0, "dropout must be in [0, 1): ", dropout_);
  }
};

/// The options of a `RoRALinear`:
/// \code
/// auto options = rora::RoRALinearOptions(4096, 4096).rank(16).alpha(32).dropout(0.05);
/// \endcode
struct RoRALinearOptions {
  RoRALinearOptions(int64_t in_features, int64_t out_features)
      : in_features_(in_features), out_features_(out_features) {}

  /// Size of x's last dimension.
  TORCH_ARG(int64_t, in_features);
  /// Size of y's last dimension.
  TORCH_ARG(int64_t, out_features);
  /// Whether the frozen layer has a bias; LLaMA's projections have none.
  TORCH_ARG(bool, bias) = false;
  /// All that concerns the adapter.
  TORCH_ARG(LowRankOptions, low_rank);

 public:
  RoRALinearOptions& rank(int64_t value) {
    low_rank_.rank(value);
    return *this;
  }
  RoRALinearOptions& alpha(double value) {
    low_rank_.alpha(value);
    return *this;
  }
  RoRALinearOptions& scaling(Scaling value) {
    low_rank_.scaling(value);
    return *this;
  }
  RoRALinearOptions& dora(bool value) {
    low_rank_.dora(value);
    return *this;
  }
  RoRALinearOptions& dropout(double value) {
    low_rank_.dropout(value);
    return *this;
  }
  RoRALinearOptions& dora_dropout(ops::DoraDropout value) {
    low_rank_.dora_dropout(value);
    return *this;
  }
  RoRALinearOptions& initializer(std::shared_ptr<const Initializer> value) {
    low_rank_.initializer(std::move(value));
    return *this;
  }

  /// Throws naming the option that is out of range.
  void validate() const {
    TORCH_CHECK_VALUE(in_features_ >= 1, "in_features must be at least 1: ", in_features_);
    TORCH_CHECK_VALUE(out_features_ >= 1, "out_features must be at least 1: ", out_features_);
    low_rank_.validate();
  }
};

} // namespace rora
