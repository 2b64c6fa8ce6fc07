#pragma once

#include <rora/adapters/rora_linear_options.h>
#include <rora/model/adapter.h>
#include <rora/model/projection.h>
#include <rora/ops/dora_norm.h>

#include <cstdint>
#include <mutex>
#include <utility>

namespace rora {

/// LoRA, RoRA and DoRA: W + s·B·A, with s = α/r or α/√r, and with DoRA's magnitude or without.
///
/// A, B and the magnitude are fp32 (fp64 beside an fp64 base), whatever the base's dtype; products run in the dtype of x.
class LowRankAdapter : public Adapter {
 public:
  /// An adapter for `projection`, on its device. Throws for options out of range, also for rank 0.
  LowRankAdapter(const ProjectionImpl& projection, const LowRankOptions& options) : options(options) {
    options.validate();
    scale_ = scaling_factor(options.scaling(), options.alpha(), options.rank());
    const at::ScalarType base = projection.weight.scalar_type();
    const auto like = projection.weight.options().dtype(base == at::kDouble ? at::kDouble : at::kFloat);
    lora_A = register_parameter("lora_A", at::empty({options.rank(), projection.in_features()}, like));
    lora_B = register_parameter("lora_B", at::empty({projection.out_features(), options.rank()}, like));
    if (options.dora()) {
      lora_magnitude_vector =
          register_parameter("lora_magnitude_vector", at::empty({projection.out_features()}, like));
    }
    reset_parameters(projection);
  }

  /// Begins anew: A and B by `options.initialization()`, then the magnitude from ‖W + s·B·A‖.
  void reset_parameters(const ProjectionImpl& projection) {
    initialize_low_rank(options.initialization(), lora_A, lora_B);
    if (options.dora()) {
      at::NoGradGuard no_grad;
      lora_magnitude_vector.copy_(norm(projection));
    }
  }

  /// s.
  double scale() const {
    return scale_;
  }

  at::Tensor forward(const ProjectionImpl& projection, const at::Tensor& x) override {
    ops::LowRankTerm term = projection.frozen_term();
    low_rank_term(projection, term);
    return ops::low_rank_linear(x, {term})[0];
  }

  bool low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) override {
    term.a = lora_A;
    term.b = lora_B;
    term.scale = scale_;
    if (is_training() && options.dropout() > 0.0) {
      term.dropout = {options.dropout(), ops::draw_seed()};
      term.dora_dropout = options.dora_dropout();
    }
    if (options.dora()) {
      term.magnitude = lora_magnitude_vector;
      term.norm = norm(projection);
    }
    return true;
  }

  /// W + s·B·A in fp32, times n by row for DoRA, rounded once.
  at::Tensor merged_weight(const ProjectionImpl& projection) const override {
    at::NoGradGuard no_grad;
    const at::Tensor base = projection.base().dense();
    at::Tensor merged = base.to(lora_A.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    merged.addmm_(lora_B, lora_A, /*beta=*/1, /*alpha=*/scale_);
    if (options.dora()) {
      ops::LowRankTerm term;
      term.magnitude = lora_magnitude_vector;
      term.norm = norm(projection);
      merged.mul_(term.direction_scale().unsqueeze(1));
    }
    return merged.to(base.scalar_type());
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "rora::LowRankAdapter(rank=" << options.rank() << ", alpha=" << options.alpha() << ", scale=" << scale_
           << ", dora=" << std::boolalpha << options.dora() << ", dropout=" << options.dropout() << ")";
  }

  const LowRankOptions options;
  at::Tensor lora_A; ///< `[rank, in]`
  at::Tensor lora_B; ///< `[out, rank]`
  at::Tensor lora_magnitude_vector; ///< `[out]`, undefined without DoRA

 private:
  /// Tells whether W is still what a norm was computed from.
  struct WeightVersion {
    uint64_t base = 0;
    int64_t values = 0;
    const void* data = nullptr;
    bool operator==(const WeightVersion&) const = default;
  };

  /// ‖W + s·B·A‖ by row. It changes only when A, B or W does, which their versions tell. Threads may share an adapter
  /// that nobody changes, as they may any module.
  at::Tensor norm(const ProjectionImpl& projection) const {
    const at::Tensor& weight = projection.weight;
    const WeightVersion weight_version{projection.base_version(), weight._version(), weight.data_ptr()};
    const std::pair<int64_t, int64_t> low_rank_versions{lora_A._version(), lora_B._version()};
    const std::lock_guard<std::mutex> lock(norm_mutex_);
    if (!weight_norm_squared_.defined() || weight_version != weight_version_) {
      weight_norm_squared_ = ops::row_norm_squared(projection.base());
      weight_version_ = weight_version;
      norm_ = at::Tensor();
    }
    if (!norm_.defined() || low_rank_versions != low_rank_versions_) {
      norm_ = ops::dora_norm(projection.base(), weight_norm_squared_, lora_A, lora_B, scale_);
      low_rank_versions_ = low_rank_versions;
    }
    return norm_;
  }

  double scale_;
  mutable std::mutex norm_mutex_; // guards the rest
  mutable at::Tensor weight_norm_squared_;
  mutable at::Tensor norm_;
  mutable WeightVersion weight_version_;
  mutable std::pair<int64_t, int64_t> low_rank_versions_;
};

} // namespace rora
