#pragma once

#include <rora/core/adapter.h>
#include <rora/core/dora_norm.h>
#include <rora/core/initializer.h>
#include <rora/core/projection.h>
#include <rora/core/rora_linear_options.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace rora {

/// LoRA, RoRA and DoRA: W + s·B·A, with s = α/r or α/√r, and with DoRA's magnitude or without.
///
/// A, B and the magnitude are fp32 (fp64 beside an fp64 base), whatever the base's dtype; products run in the dtype of x.
/// Where the initializer rewrites the base, A and B as they began are kept as buffers, `initial_A` and `initial_B`: while the
/// adapter is active, W − s·initial_B·initial_A stands in W's place.
class LowRankAdapter : public Adapter {
 public:
  /// An adapter for `projection`, on its device. Throws for options out of range, also for rank 0, and for statistics that
  /// the initializer needs and that are not there.
  LowRankAdapter(
      const ProjectionImpl& projection, const LowRankOptions& options, const WeightStatistics& statistics = {})
      : LowRankAdapter(
            options, projection.in_features(), projection.out_features(),
            at::TensorOptions().dtype(wide(projection.base().dtype())).device(projection.base().device())) {
    reset_parameters(projection, statistics);
  }

  /// Begins anew: A and B by `options.initializer()`, then the magnitude from ‖W + s·B·A‖.
  void reset_parameters(const ProjectionImpl& projection, const WeightStatistics& statistics = {}) {
    const auto initializer = options.initializer() ? options.initializer() : kaiming_uniform();
    TORCH_CHECK_VALUE(
        !initializer->needs_gradient() || statistics.gradient.defined(), "the initializer '", initializer->name(),
        "' reads the weight's gradient, and none was captured");
    TORCH_CHECK_VALUE(
        !initializer->needs_input_moment() || statistics.input_moment.defined(), "the initializer '",
        initializer->name(), "' reads the moments of the weight's input, and none were captured");
    at::NoGradGuard no_grad;
    initializer->initialize(projection, statistics, {lora_A, lora_B, scale_});
    if (initializer->rewrites_base()) {
      initial_A.copy_(lora_A);
      initial_B.copy_(lora_B);
    }
    if (options.dora()) { // where the base is rewritten, W itself is what the layer begins with
      lora_magnitude_vector.copy_(
          initializer->rewrites_base() ? ops::row_norm_squared(projection.base()).sqrt() : norm(projection));
    }
  }

  /// s.
  double scale() const {
    return scale_;
  }

  bool low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) override {
    term.a = lora_A;
    term.b = lora_B;
    term.a_gradient = a_gradient_;
    term.b_gradient = b_gradient_;
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

  bool can_merge() const override {
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

  at::Tensor rewritten_weight(const ProjectionImpl& projection) const override {
    if (!initial_A.defined()) {
      return {};
    }
    const at::Tensor base = projection.base().dense();
    at::Tensor residual = base.to(lora_A.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    residual.addmm_(initial_B, initial_A, /*beta=*/1, /*alpha=*/-scale_);
    return residual.to(base.scalar_type());
  }

  bool changes_output() const override {
    return options.dora() || initial_A.defined() || lora_B.any().item<bool>();
  }

  std::optional<std::string> why_not_captured() const override {
    return options.dropout() > 0.0 ? std::optional<std::string>("dropout draws new seeds on the host for each batch")
                                   : std::nullopt;
  }

  /// s·A·x, and with DoRA the output, from which the magnitude's gradient comes, or with dropout on the adapter's input
  /// another tensor of its size.
  AdapterMemory memory(const ProjectionImpl& projection, bool output_kept) const override {
    const bool directed = options.dropout() > 0.0 && options.dora_dropout() == ops::DoraDropout::kInput;
    const bool keeps_output = options.dora() && (directed || !output_kept);
    return {/*input=*/true, options.rank(), keeps_output ? projection.out_features() : 0};
  }

  std::vector<LowRankPair> pairs() const override {
    return {{lora_A, lora_B, scale_}};
  }

  ParameterRole role(const std::string& parameter) const override {
    return parameter == "lora_A"  ? ParameterRole::kA
        : parameter == "lora_B"   ? ParameterRole::kB
        : options.dora()          ? ParameterRole::kMagnitude
                                  : ParameterRole::kOther;
  }

  /// A, B and the magnitude; over a rewritten base [A; initial_A] and [B, −initial_B], of rank 2r at the same s, which do the
  /// same on W.
  std::vector<std::pair<std::string, at::Tensor>> saved_tensors() const override {
    auto tensors = Adapter::saved_tensors();
    if (initial_A.defined()) {
      at::NoGradGuard no_grad;
      tensors[0].second = at::cat({lora_A, initial_A}, 0);
      tensors[1].second = at::cat({lora_B, -initial_B}, 1);
    }
    return tensors;
  }

  void set_gradient_buffer(const std::string& parameter, std::shared_ptr<ops::GradientBuffer> buffer) override {
    if (parameter == "lora_A") {
      a_gradient_ = std::move(buffer);
    } else if (parameter == "lora_B") {
      b_gradient_ = std::move(buffer);
    }
  }

  std::shared_ptr<Adapter> empty_copy() const override {
    return std::shared_ptr<Adapter>(
        new LowRankAdapter(options, lora_A.size(1), lora_B.size(0), lora_A.options().requires_grad(false)));
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "rora::LowRankAdapter(rank=" << options.rank() << ", alpha=" << options.alpha() << ", scale=" << scale_
           << ", dora=" << std::boolalpha << options.dora() << ", dropout=" << options.dropout() << ")";
  }

  const LowRankOptions options;
  at::Tensor lora_A; ///< `[rank, in]`
  at::Tensor lora_B; ///< `[out, rank]`
  at::Tensor lora_magnitude_vector; ///< `[out]`, undefined without DoRA
  at::Tensor initial_A; ///< A as it began, undefined unless the base is rewritten
  at::Tensor initial_B; ///< B as it began, the same

 private:
  /// Tells whether W is still what a norm was computed from.
  struct WeightVersion {
    uint64_t base = 0;
    int64_t values = 0;
    const void* data = nullptr;
    bool operator==(const WeightVersion&) const = default;
  };

  /// Tensors without values.
  LowRankAdapter(const LowRankOptions& options, int64_t in, int64_t out, const at::TensorOptions& like)
      : options(options) {
    options.validate();
    scale_ = scaling_factor(options.scaling(), options.alpha(), options.rank());
    lora_A = register_parameter("lora_A", at::empty({options.rank(), in}, like));
    lora_B = register_parameter("lora_B", at::empty({out, options.rank()}, like));
    if (options.dora()) {
      lora_magnitude_vector = register_parameter("lora_magnitude_vector", at::empty({out}, like));
    }
    if (options.initializer() && options.initializer()->rewrites_base()) {
      initial_A = register_buffer("initial_A", at::empty({options.rank(), in}, like));
      initial_B = register_buffer("initial_B", at::empty({out, options.rank()}, like));
    }
  }

  /// ‖W + s·B·A‖ by row. It changes only when A, B or W does, which their versions tell. Threads may share an adapter
  /// that nobody changes, as they may any module.
  at::Tensor norm(const ProjectionImpl& projection) const {
    const at::Tensor& weight = projection.weight;
    WeightVersion weight_version{projection.base_version(), 0, &projection.base()};
    if (weight.defined()) {
      weight_version.values = weight._version();
      weight_version.data = weight.const_data_ptr();
    }
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
  std::shared_ptr<ops::GradientBuffer> a_gradient_;
  std::shared_ptr<ops::GradientBuffer> b_gradient_;
  mutable std::mutex norm_mutex_; // guards the rest
  mutable at::Tensor weight_norm_squared_;
  mutable at::Tensor norm_;
  mutable WeightVersion weight_version_;
  mutable std::pair<int64_t, int64_t> low_rank_versions_;
};

} // namespace rora
