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
  lora_A = at::empty({options.rank(), in}, like);
  lora_B = at::empty({out, options.rank()}, like);
  if (options.core()) {
    register_buffer("lora_A", lora_A);
    register_buffer("lora_B", lora_B);
    lora_R = register_parameter("lora_R", at::empty({options.rank(), options.rank()}, like));
  } else {
    lora_A = register_parameter("lora_A", lora_A);
    lora_B = register_parameter("lora_B", lora_B);
  }
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
  TORCH_CHECK_VALUE(
      !options.core() || options.initializer(), "core needs an initializer: with B at 0 nothing would be trained");
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
  if (options.core()) {
    at::eye_out(lora_R, options.rank());
  }
  initializer->initialize(projection, read, {lora_A, lora_B, scale_, lora_R});
  TORCH_CHECK_VALUE(
      !options.core() || lora_B.any().item<bool>(), "core needs a start whose B is not 0, which '", initializer->name(),
      "' is not: R would get no gradient");
  if (initializer->rewrites_base()) {
    initial_A.copy_(lora_A);
    initial_B.copy_(lora_B);
  }
  if (options.dora()) {
    const auto base = projection.original_base();
    const at::Tensor squared = ops::row_norm_squared(*base);
    // Where the base is rewritten, W itself is what the layer begins with.
    lora_magnitude_vector.copy_(
        initializer->rewrites_base() ? squared.sqrt() : ops::dora_norm(*base, squared, read_factor(), lora_B, scale_));
  }
}

RORA_INLINE double LowRankAdapter::scale() const {
  return scale_;
}

RORA_INLINE at::Tensor LowRankAdapter::read_factor() const {
  return options.core() ? lora_R.mm(lora_A) : lora_A;
}

RORA_INLINE void LowRankAdapter::train_nested(std::optional<int64_t> rank, bool last_only) {
  if (!rank) {
    nested_.reset();
    return;
  }
  TORCH_CHECK_VALUE(
      *rank >= 1 && *rank <= options.rank(), "an adapter of rank ", options.rank(), " cannot be trained at rank ",
      *rank);
  TORCH_CHECK_VALUE(!options.dora(), "an adapter with DoRA cannot be trained at lower ranks: its magnitude is of all");
  TORCH_CHECK_VALUE(!options.core(), "an adapter with a core cannot be trained at lower ranks: R is of all");
  TORCH_CHECK_VALUE(!initial_A.defined(), "an adapter over a rewritten base cannot be trained at lower ranks");
  nested_ = NestedRank{*rank, last_only};
}

RORA_INLINE bool LowRankAdapter::low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) {
  if (is_training() && nested_) {
    const int64_t rank = nested_->rank;
    const bool last_only = nested_->last_only;
    const auto of_last = [rank](const at::Tensor& first, int64_t dim) { // the last alone is trained
      return at::cat({first.narrow(dim, 0, rank - 1).detach(), first.narrow(dim, rank - 1, 1)}, dim);
    };
    term.a = last_only ? of_last(lora_A, 0) : lora_A.narrow(0, 0, rank);
    term.b = last_only ? of_last(lora_B, 1) : lora_B.narrow(1, 0, rank).contiguous();
    term.scale = scaling_factor(options.scaling(), options.alpha(), rank);
  } else {
    term.a = read_factor();
    term.b = lora_B;
    term.a_gradient = a_gradient_;
    term.b_gradient = b_gradient_;
    term.scale = scale_;
  }
  if (is_training() && options.dropout() > 0.0) {
    term.dropout = {options.dropout(), ops::draw_seed()};
    term.dora_dropout = options.dora_dropout();
  }
  if (options.dora()) {
    term.magnitude = lora_magnitude_vector;
    term.norm = norm(projection);
    term.backward_passes = backward_passes_;
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
  merged.addmm_(lora_B, read_factor(), /*beta=*/1, /*alpha=*/scale_);
  if (options.dora()) {
    ops::LowRankTerm term;
    term.magnitude = lora_magnitude_vector;
    term.norm =
        ops::dora_norm(projection.base(), ops::row_norm_squared(projection.base()), read_factor(), lora_B, scale_);
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
  if (nested_) {
    return "the rank by which it computes is drawn on the host for each step";
  }
  return options.dropout() > 0.0 ? std::optional<std::string>("dropout draws new seeds on the host for each batch")
                                 : std::nullopt;
}

RORA_INLINE AdapterMemory LowRankAdapter::memory(const ProjectionImpl& projection, bool output_kept) const {
  const bool directed = options.dropout() > 0.0 && options.dora_dropout() == ops::DoraDropout::kInput;
  const bool keeps_output = options.dora() && (directed || !output_kept);
  const bool reads_input = lora_A.requires_grad() || options.core() || options.dora();
  const bool keeps_hidden = !options.core() || options.dora(); // for the gradients of B and the magnitude
  return {reads_input, keeps_hidden ? options.rank() : 0, keeps_output ? projection.out_features() : 0};
}

RORA_INLINE std::vector<LowRankPair> LowRankAdapter::pairs() const {
  return options.core() ? std::vector<LowRankPair>() : std::vector<LowRankPair>{{lora_A, lora_B, scale_}};
}

RORA_INLINE ParameterRole LowRankAdapter::role(const std::string& parameter) const {
  return parameter == "lora_A"               ? ParameterRole::kA
      : parameter == "lora_B"                ? ParameterRole::kB
      : parameter == "lora_magnitude_vector" ? ParameterRole::kMagnitude
                                             : ParameterRole::kOther;
}

RORA_INLINE std::vector<std::pair<std::string, at::Tensor>> LowRankAdapter::saved_tensors() const {
  at::NoGradGuard no_grad;
  std::vector<std::pair<std::string, at::Tensor>> tensors{{"lora_A", read_factor()}, {"lora_B", lora_B}};
  if (options.dora()) {
    tensors.emplace_back("lora_magnitude_vector", lora_magnitude_vector);
  }
  if (initial_A.defined()) {
    for (auto& [name, tensor] : tensors) {
      tensor = name == "lora_A" ? at::cat({tensor, initial_A}, 0)
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
  const std::shared_ptr<LowRankAdapter> copy(
      new LowRankAdapter(options, lora_A.size(1), lora_B.size(0), lora_A.options().requires_grad(false)));
  copy->nested_ = nested_;
  return copy;
}

RORA_INLINE void LowRankAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::LowRankAdapter(rank=" << options.rank() << ", alpha=" << options.alpha() << ", scale=" << scale_
         << ", dora=" << std::boolalpha << options.dora() << ", dropout=" << options.dropout()
         << (options.core() ? ", core=true)" : ")");
}

RORA_INLINE void LowRankAdapter::load(torch::serialize::InputArchive& archive) {
  Adapter::load(archive);
  const std::lock_guard<std::mutex> lock(norm_mutex_);
  norm_ = at::Tensor(); // memory may be given out twice, and versions stay
}

RORA_INLINE at::Tensor LowRankAdapter::norm(const ProjectionImpl& projection) const {
  const auto version_of = [](const at::Tensor& tensor) {
    const int64_t version = tensor.is_inference() ? 0 : static_cast<int64_t>(tensor._version());
    return TensorVersion{tensor.const_data_ptr(), version};
  };
  const WeightVersion weight_version{
      projection.base_version(), projection.weight.defined() ? version_of(projection.weight) : TensorVersion{}};
  const TensorVersion a_version = version_of(lora_A), b_version = version_of(lora_B);
  const TensorVersion r_version = options.core() ? version_of(lora_R) : TensorVersion{};
  const uint64_t passes = *backward_passes_;
  const bool trains = lora_A.requires_grad() || lora_B.requires_grad() || (options.core() && lora_R.requires_grad());
  const bool trains_weight = projection.weight.defined() && projection.weight.requires_grad();
  const bool records = at::GradMode::is_enabled() && (trains || trains_weight);
  const at::NoGradGuard no_grad;
  const std::lock_guard<std::mutex> lock(norm_mutex_);
  const bool may_have_changed = records || passes != passes_;
  if (!weight_norm_squared_.defined() || weight_version != weight_version_) {
    weight_norm_squared_ = ops::row_norm_squared(projection.base());
    weight_version_ = weight_version;
    norm_ = at::Tensor();
  }
  if (norm_.defined() && !may_have_changed && a_version == a_version_ && b_version == b_version_ &&
      r_version == r_version_) {
    return norm_;
  }
  const at::Tensor formed = ops::dora_norm(projection.base(), weight_norm_squared_, read_factor(), lora_B, scale_);
  norm_ = records || is_training() ? at::Tensor() : formed;
  if (trains_weight) { // frozen again, it may be another
    weight_norm_squared_ = at::Tensor();
  }
  a_version_ = a_version;
  b_version_ = b_version;
  r_version_ = r_version;
  passes_ = passes;
  return formed;
}

} // namespace rora
