#pragma once

#include <rora/core/dora_norm.h>
#include <rora/core/low_rank_adapter.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/serialize/archive.h>

#include <ostream>

namespace rora {

RORA_INLINE LowRankAdapter::LowRankAdapter(
    const ProjectionImpl& projection, const LowRankOptions& options, const WeightStatistics& statistics)
    : LowRankAdapter(
          options, projection.in_features(), projection.out_features(),
          at::TensorOptions().dtype(wide(projection.base().dtype())).device(projection.base().device())) {
  reset_parameters(projection, statistics);
}

RORA_INLINE LowRankAdapter::LowRankAdapter(
    const LowRankOptions& options, int64_t in, int64_t out, const at::TensorOptions& like)
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

RORA_INLINE void LowRankAdapter::reset_parameters(
    const ProjectionImpl& projection, const WeightStatistics& statistics) {
  const auto initializer = options.initializer() ? options.initializer() : kaiming_uniform();
  const auto check = [&](bool needed, const at::Tensor& given, const char* what) {
    TORCH_CHECK_VALUE(
        !needed || given.defined() || !statistics.condensed.empty(), "the initializer '", initializer->name(),
        "' reads ", what, " captured");
  };
  check(initializer->needs_gradient(), statistics.gradient, "the weight's gradient, and none was");
  check(initializer->needs_input_moment(), statistics.input_moment, "the moments of the weight's input, and none were");
  at::NoGradGuard no_grad;
  WeightStatistics read = statistics;
  if (read.condensed.empty()) {
    initializer->condense(projection, options.rank(), read);
  }
  initializer->initialize(projection, read, {lora_A, lora_B, scale_});
  if (initializer->rewrites_base()) {
    initial_A.copy_(lora_A);
    initial_B.copy_(lora_B);
  }
  if (options.dora()) {
    const auto base = projection.original_base();
    const at::Tensor squared = ops::row_norm_squared(*base);
    // Where the base is rewritten, W itself is what the layer begins with.
    lora_magnitude_vector.copy_(
        initializer->rewrites_base() ? squared.sqrt() : ops::dora_norm(*base, squared, lora_A, lora_B, scale_));
  }
}

RORA_INLINE double LowRankAdapter::scale() const {
  return scale_;
}

RORA_INLINE bool LowRankAdapter::low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) {
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

RORA_INLINE bool LowRankAdapter::can_merge() const {
  return true;
}

RORA_INLINE at::Tensor LowRankAdapter::merged_weight(const ProjectionImpl& projection) const {
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

RORA_INLINE at::Tensor LowRankAdapter::rewritten_weight(const ProjectionImpl& projection) const {
  if (!initial_A.defined()) {
    return {};
  }
  const at::Tensor base = projection.base().dense();
  at::Tensor residual = base.to(lora_A.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  residual.addmm_(initial_B, initial_A, /*beta=*/1, /*alpha=*/-scale_);
  return residual.to(base.scalar_type());
}

RORA_INLINE bool LowRankAdapter::changes_output() const {
  return options.dora() || initial_A.defined() || lora_B.any().item<bool>();
}

RORA_INLINE std::optional<std::string> LowRankAdapter::why_not_captured() const {
  return options.dropout() > 0.0 ? std::optional<std::string>("dropout draws new seeds on the host for each batch")
                                 : std::nullopt;
}

RORA_INLINE AdapterMemory LowRankAdapter::memory(const ProjectionImpl& projection, bool output_kept) const {
  const bool directed = options.dropout() > 0.0 && options.dora_dropout() == ops::DoraDropout::kInput;
  const bool keeps_output = options.dora() && (directed || !output_kept);
  const bool reads_input = lora_A.requires_grad() || options.dora();
  return {reads_input, options.rank(), keeps_output ? projection.out_features() : 0};
}

RORA_INLINE std::vector<LowRankPair> LowRankAdapter::pairs() const {
  return {{lora_A, lora_B, scale_}};
}

RORA_INLINE ParameterRole LowRankAdapter::role(const std::string& parameter) const {
  return parameter == "lora_A" ? ParameterRole::kA
      : parameter == "lora_B"  ? ParameterRole::kB
      : options.dora()         ? ParameterRole::kMagnitude
                               : ParameterRole::kOther;
}

RORA_INLINE std::vector<std::pair<std::string, at::Tensor>> LowRankAdapter::saved_tensors() const {
  auto tensors = Adapter::saved_tensors();
  if (initial_A.defined()) {
    at::NoGradGuard no_grad;
    for (auto& [name, tensor] : tensors) {
      tensor = name == "lora_A" ? at::cat({lora_A, initial_A}, 0)
          : name == "lora_B"    ? at::cat({lora_B, -initial_B}, 1)
                                : tensor;
    }
  }
  return tensors;
}

RORA_INLINE void LowRankAdapter::set_gradient_buffer(
    const std::string& parameter, std::shared_ptr<ops::GradientBuffer> buffer) {
  if (parameter == "lora_A") {
    a_gradient_ = std::move(buffer);
  } else if (parameter == "lora_B") {
    b_gradient_ = std::move(buffer);
  }
}

RORA_INLINE std::shared_ptr<Adapter> LowRankAdapter::empty_copy() const {
  return std::shared_ptr<Adapter>(
      new LowRankAdapter(options, lora_A.size(1), lora_B.size(0), lora_A.options().requires_grad(false)));
}

RORA_INLINE void LowRankAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::LowRankAdapter(rank=" << options.rank() << ", alpha=" << options.alpha() << ", scale=" << scale_
         << ", dora=" << std::boolalpha << options.dora() << ", dropout=" << options.dropout() << ")";
}

RORA_INLINE void LowRankAdapter::load(torch::serialize::InputArchive& archive) {
  Adapter::load(archive);
  const std::lock_guard<std::mutex> lock(norm_mutex_);
  norm_ = at::Tensor(); // memory may be given out twice, and versions stay
}

RORA_INLINE at::Tensor LowRankAdapter::norm(const ProjectionImpl& projection) const {
  const auto version_of = [](const at::Tensor& tensor) {
    return TensorVersion{tensor.const_data_ptr(), static_cast<int64_t>(tensor._version())};
  };
  const WeightVersion weight_version{
      projection.base_version(), projection.weight.defined() ? version_of(projection.weight) : TensorVersion{}};
  const TensorVersion a_version = version_of(lora_A), b_version = version_of(lora_B);
  const std::lock_guard<std::mutex> lock(norm_mutex_);
  if (!weight_norm_squared_.defined() || weight_version != weight_version_) {
    weight_norm_squared_ = ops::row_norm_squared(projection.base());
    weight_version_ = weight_version;
    norm_ = at::Tensor();
  }
  if (!norm_.defined() || a_version != a_version_ || b_version != b_version_) {
    norm_ = ops::dora_norm(projection.base(), weight_norm_squared_, lora_A, lora_B, scale_);
    a_version_ = a_version;
    b_version_ = b_version;
  }
  return norm_;
}

} // namespace rora
