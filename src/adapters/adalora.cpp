#include <rora/adapters/adalora.h>

#include "kinds/adalora.h"

#include <rora/core/dropout.h>
#include <rora/core/low_rank_term.h>
#include <rora/core/projection.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace rora {
namespace {

constexpr double kNormalDeviation = 0.02;

/// The authors' example has 500 and 1500 of 3000 steps.
constexpr int64_t kInitialShare = 6;
constexpr int64_t kFinalShare = 2;

int64_t count(const std::vector<bool>& flags) {
  return std::count(flags.begin(), flags.end(), true);
}

} // namespace

void AdaLoraOptions::validate() const {
  const auto require = [](bool holds, const char* name, const char* range, double value) {
    TORCH_CHECK_VALUE(holds, "AdaLoRA's ", name, " must be ", range, ": ", value);
  };
  const auto as_double = [](int64_t value) { return static_cast<double>(value); };
  require(init_r_ >= 1, "init_r", "at least 1", as_double(init_r_));
  require(target_r_ >= 0, "target_r", "at least 0", as_double(target_r_));
  require(std::isfinite(alpha_), "alpha", "finite", alpha_);
  require(dropout_ >= 0.0 && dropout_ < 1.0, "dropout", "in [0, 1)", dropout_);
  require(tinit_.value_or(0) >= 0, "tinit", "at least 0", as_double(tinit_.value_or(0)));
  require(tfinal_.value_or(0) >= 0, "tfinal", "at least 0", as_double(tfinal_.value_or(0)));
  require(delta_t_ >= 1, "delta_t", "at least 1", as_double(delta_t_));
  require(beta1_ > 0.0 && beta1_ < 1.0, "beta1", "in (0, 1)", beta1_);
  require(beta2_ > 0.0 && beta2_ < 1.0, "beta2", "in (0, 1)", beta2_);
  require(
      std::isfinite(orth_reg_weight_) && orth_reg_weight_ >= 0.0, "orth_reg_weight", "at least 0", orth_reg_weight_);
  require(total_step_ >= 0, "total_step", "at least 0", as_double(total_step_));
}

AdaLoraOptions AdaLoraOptions::for_run(int64_t steps) const {
  TORCH_CHECK_VALUE(target_r_ <= init_r_, "AdaLoRA's target_r, ", target_r_, ", must be at most init_r, ", init_r_);
  AdaLoraOptions run = *this;
  run.total_step(total_step_ > 0 ? total_step_ : steps);
  run.tinit(tinit_.value_or(run.total_step() / kInitialShare));
  run.tfinal(tfinal_.value_or(run.total_step() / kFinalShare));
  TORCH_CHECK_VALUE(
      *run.tinit() < run.total_step() - *run.tfinal(), "AdaLoRA's tinit ", *run.tinit(), " and tfinal ", *run.tfinal(),
      " leave none of ", run.total_step(), " steps in which ranks are given out");
  return run;
}

int64_t AdaLoraOptions::budget(int64_t step, int64_t modules) const {
  const int64_t tinit = tinit_.value_or(0);
  const int64_t last = total_step_ - tfinal_.value_or(0);
  const int64_t before = init_r_ * modules;
  const int64_t after = target_r_ * modules;
  if (step <= tinit || step >= last) {
    return step <= tinit ? before : after;
  }
  const double left = 1.0 - static_cast<double>(step - tinit) / static_cast<double>(last - tinit);
  return static_cast<int64_t>(static_cast<double>(before - after) * std::pow(left, 3) + static_cast<double>(after));
}

AdaLoraAdapter::AdaLoraAdapter(const ProjectionImpl& projection, const AdaLoraOptions& options, std::vector<bool> kept)
    : AdaLoraAdapter(
          options, std::move(kept), projection.in_features(), projection.out_features(),
          at::TensorOptions().dtype(wide(projection.base().dtype())).device(projection.base().device())) {
  at::NoGradGuard no_grad;
  lora_A.normal_(0.0, kNormalDeviation);
  lora_E.zero_();
  lora_B.normal_(0.0, kNormalDeviation);
}

AdaLoraAdapter::AdaLoraAdapter(
    const AdaLoraOptions& options, std::vector<bool> kept, int64_t in, int64_t out, const at::TensorOptions& like)
    : options(options),
      rows_(
          kept.empty() ? std::vector<bool>(static_cast<size_t>(std::max<int64_t>(options.init_r(), 0)), true)
                       : std::move(kept)) {
  options.validate();
  TORCH_CHECK_VALUE(
      std::ssize(rows_) == options.init_r(), "what is kept of AdaLoRA's ranks is said of ", rows_.size(), ", not of ",
      options.init_r());
  const int64_t rank = count(rows_);
  lora_A = register_parameter("lora_A", at::empty({rank, in}, like));
  lora_E = register_parameter("lora_E", at::empty({rank, 1}, like));
  lora_B = register_parameter("lora_B", at::empty({out, rank}, like));
}

double AdaLoraAdapter::scale() const {
  return detail::adalora_scale(options);
}

std::vector<bool> AdaLoraAdapter::kept() const {
  at::Tensor used = lora_E.detach().ne(0).view({-1});
  if (mask.defined()) {
    used = used.logical_or(mask);
  } else if (!used.any().item<bool>()) {
    return rows_;
  }
  used = used.cpu();
  std::vector<bool> kept = rows_;
  int64_t row = 0;
  for (auto&& each : kept) {
    if (each) {
      each = used[row++].item<bool>();
    }
  }
  return kept;
}

bool AdaLoraAdapter::low_rank_term(const ProjectionImpl& projection, ops::LowRankTerm& term) {
  if (lora_E.size(0) == 0) {
    return true; // of no rank: the frozen layer
  }
  term.a = lora_E * lora_A;
  term.b = lora_B;
  term.scale = scale();
  if (is_training() && options.dropout() > 0.0) {
    term.dropout = {options.dropout(), ops::draw_seed()};
  }
  return true;
}

bool AdaLoraAdapter::can_merge() const {
  return true;
}

at::Tensor AdaLoraAdapter::merged_weight(const ProjectionImpl& projection) const {
  at::NoGradGuard no_grad;
  const at::Tensor base = projection.base().dense();
  at::Tensor merged = base.to(lora_A.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  merged.addmm_(lora_B, lora_E * lora_A, /*beta=*/1, /*alpha=*/scale());
  return merged.to(base.scalar_type());
}

bool AdaLoraAdapter::changes_output() const {
  return lora_E.any().item<bool>();
}

std::optional<std::string> AdaLoraAdapter::why_not_captured() const {
  return options.dropout() > 0.0 ? std::optional<std::string>("dropout draws new seeds on the host for each batch")
                                 : std::nullopt;
}

AdapterMemory AdaLoraAdapter::memory(const ProjectionImpl& projection, bool output_kept) const {
  return {/*input=*/true, lora_E.size(0), 0};
}

ParameterRole AdaLoraAdapter::role(const std::string& parameter) const {
  return parameter == "lora_A" ? ParameterRole::kA : parameter == "lora_B" ? ParameterRole::kB : ParameterRole::kOther;
}

std::vector<std::pair<std::string, at::Tensor>> AdaLoraAdapter::saved_tensors() const {
  const std::vector<bool> kept = this->kept();
  if (kept == rows_) {
    return Adapter::saved_tensors();
  }
  std::vector<int64_t> places; // among the rows that there are
  int64_t row = 0;
  for (size_t rank = 0; rank < rows_.size(); ++rank) {
    if (rows_[rank]) {
      if (kept[rank]) {
        places.push_back(row);
      }
      ++row;
    }
  }
  const at::Tensor index = at::tensor(places, at::kLong).to(lora_E.device());
  return {
      {"lora_A", lora_A.detach().index_select(0, index)},
      {"lora_E", lora_E.detach().index_select(0, index)},
      {"lora_B", lora_B.detach().index_select(1, index)}};
}

std::shared_ptr<Adapter> AdaLoraAdapter::empty_copy() const {
  return std::shared_ptr<Adapter>(
      new AdaLoraAdapter(options, rows_, lora_A.size(1), lora_B.size(0), lora_A.options().requires_grad(false)));
}

void AdaLoraAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::AdaLoraAdapter(rank=" << lora_E.size(0) << ", init_r=" << options.init_r()
         << ", target_r=" << options.target_r() << ", scale=" << scale() << ", dropout=" << options.dropout() << ")";
}

std::shared_ptr<const AdapterKind> adalora(const AdaLoraOptions& options) {
  return std::make_shared<detail::AdaLoraKind>(options);
}

} // namespace rora
