#include <rora/adapters/adalora.h>

#include "kinds/adalora.h"

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

/// All of them where nothing is said.
std::vector<bool> rows_of(const AdaLoraOptions& options, std::vector<bool> kept) {
  options.validate();
  if (kept.empty()) {
    kept.assign(static_cast<size_t>(options.init_r()), true);
  }
  TORCH_CHECK_VALUE(
      std::ssize(kept) == options.init_r(), "what is kept of AdaLoRA's ranks is said of ", kept.size(), ", not of ",
      options.init_r());
  return kept;
}

} // namespace

void AdaLoraOptions::validate() const {
  const auto require = [](bool holds, const char* name, const char* range, double value) {
    TORCH_CHECK_VALUE(holds, "AdaLoRA's ", name, " must be ", range, ": ", value);
  };
  const auto as_double = [](int64_t value) { return static_cast<double>(value); };
  require(init_r_ >= 1, "init_r", "at least 1", as_double(init_r_));
  require(target_r_ >= 0, "target_r", "at least 0", as_double(target_r_));
  require(std::isfinite(alpha_) && alpha_ > 0.0, "alpha", "above 0", alpha_);
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
          options, rows_of(options, std::move(kept)), projection.in_features(), projection.out_features(),
          options_beside(projection)) {
  at::NoGradGuard no_grad;
  for (at::Tensor* each : {&lora_A, &lora_B}) { // on the CPU, so that a seed gives the same everywhere
    each->copy_(at::empty(each->sizes(), each->options().device(at::kCPU)).normal_(0.0, kNormalDeviation));
  }
  gate.zero_();
}

AdaLoraAdapter::AdaLoraAdapter(
    const AdaLoraOptions& options, std::vector<bool> rows, int64_t in, int64_t out, const at::TensorOptions& like)
    : GatedAdapter("lora_E", std::count(rows.begin(), rows.end(), true), in, out, like),
      options(options),
      rows_(std::move(rows)) {}

double AdaLoraAdapter::scale() const {
  return detail::adalora_scale(options);
}

double AdaLoraAdapter::dropout() const {
  return options.dropout();
}

std::vector<bool> AdaLoraAdapter::kept() const {
  at::Tensor used = gate.detach().ne(0).view({-1});
  if (mask.defined()) {
    used = used.logical_or(mask.to(used.device())); // the adapter may have been moved since
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
  const at::Tensor index = at::tensor(places, at::kLong).to(gate.device());
  return {
      {"lora_A", lora_A.detach().index_select(0, index)},
      {"lora_E", gate.detach().index_select(0, index)},
      {"lora_B", lora_B.detach().index_select(1, index)}};
}

std::shared_ptr<Adapter> AdaLoraAdapter::empty_copy() const {
  return std::shared_ptr<Adapter>(
      new AdaLoraAdapter(options, rows_, lora_A.size(1), lora_B.size(0), lora_A.options().requires_grad(false)));
}

void AdaLoraAdapter::pretty_print(std::ostream& stream) const {
  stream << "rora::AdaLoraAdapter(rank=" << gate.size(0) << ", init_r=" << options.init_r()
         << ", target_r=" << options.target_r() << ", scale=" << scale() << ", dropout=" << options.dropout() << ")";
}

std::shared_ptr<const AdapterKind> adalora(const AdaLoraOptions& options) {
  return std::make_shared<detail::AdaLoraKind>(options);
}

} // namespace rora
