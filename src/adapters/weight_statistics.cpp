#include <rora/adapters/weight_statistics.h>

#include "attachment.h"
#include "input_moments.h"

#include <rora/adapters/gradient_capture.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/error.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace rora {
namespace {

/// What is captured for an initializer.
struct Needs {
  bool gradient;
  bool moment;

  int64_t bytes(const ProjectionImpl& projection) const {
    const int64_t in = projection.in_features();
    const int64_t of_gradient = projection.out_features() * in * static_cast<int64_t>(sizeof(float));
    const int64_t of_moment = in * in * static_cast<int64_t>(sizeof(double));
    return (gradient ? of_gradient : 0) + (moment ? of_moment : 0);
  }
};

using Group = std::vector<detail::Attachment>;

/// The plan cut where the next weight would not fit into `memory` any more.
std::vector<Group> groups_of(const std::vector<detail::Attachment>& plan, const Needs& needs, int64_t memory) {
  std::vector<Group> groups;
  int64_t bytes = 0;
  for (const detail::Attachment& each : plan) {
    const int64_t own = needs.bytes(*each.projection);
    if (groups.empty() || (memory > 0 && bytes + own > memory)) {
      groups.emplace_back();
      bytes = 0;
    }
    groups.back().push_back(each);
    bytes += own;
  }
  return groups;
}

void run_backward(CausalLM& model, const CaptureBatch& rows, int64_t number) {
  const LossSum loss = model->loss(rows.input, rows.labels);
  TORCH_CHECK_VALUE(loss.tokens > 0, "batch ", number, " of those that are captured has no labelled token");
  (loss.sum / static_cast<double>(loss.tokens)).backward();
}

/// Whether mean|W ⊙ G| of each weight of a group stands still, as GoRA's authors have it.
class Settling {
 public:
  Settling(const Group& group, double share) : group_(group), share_(share) {}

  bool operator()(int64_t batches, const std::map<std::string, at::Tensor>& sums) {
    constexpr int64_t kFirst = 3;
    constexpr double kEpsilon = 1e-8;
    if (batches < kFirst) {
      return false;
    }
    at::NoGradGuard no_grad;
    bool settled = !last_.empty();
    std::vector<double> now;
    for (const detail::Attachment& each : group_) {
      const at::Tensor& sum = sums.at(each.module);
      if (!sum.defined()) {
        return false;
      }
      const at::Tensor product = each.projection->original_weight().to(at::kCPU, at::kFloat) * sum;
      now.push_back(product.abs_().mean(at::kDouble).item<double>() / static_cast<double>(batches));
      settled = settled && std::abs(now.back() - last_[now.size() - 1]) <= share_ * (last_[now.size() - 1] + kEpsilon);
    }
    last_ = now;
    return settled;
  }

 private:
  const Group& group_;
  double share_;
  std::vector<double> last_;
};

StatisticsByModule capture_group(
    CausalLM& model, const Group& group, const Needs& needs, const CaptureOptions& capture,
    const std::function<CaptureBatch(int64_t batch)>& batch) {
  std::vector<std::string> modules;
  for (const detail::Attachment& each : group) {
    modules.push_back(each.module);
  }
  StatisticsByModule statistics;
  if (needs.gradient) {
    EnoughBatches enough;
    if (capture.settled() > 0.0) {
      enough = Settling(group, capture.settled());
    }
    const auto run = [&](int64_t i) { run_backward(model, batch(i), i); };
    statistics = capture_gradients(*model, modules, capture.batches(), run, enough);
  }
  if (needs.moment) {
    for (auto& [module, moments] : detail::capture_input_moments(model, modules, capture.batches(), batch)) {
      statistics[module].input_mean = moments.input_mean;
      statistics[module].input_moment = moments.input_moment;
    }
  }
  return statistics;
}

} // namespace

void CaptureOptions::validate() const {
  TORCH_CHECK_VALUE(batches_ >= 1, "batches must be at least 1: ", batches_);
  TORCH_CHECK_VALUE(std::isfinite(settled_) && settled_ >= 0.0, "settled must be at least 0: ", settled_);
  TORCH_CHECK_VALUE(memory_ >= 0, "memory must not be negative: ", memory_);
}

StatisticsByModule capture_statistics(
    CausalLM model, const AdapterOptions& options, const CaptureOptions& capture,
    const std::function<CaptureBatch(int64_t batch)>& batch) {
  capture.validate();
  const auto initializer = options.kind() ? nullptr : options.low_rank().initializer();
  StatisticsByModule statistics;
  if (!initializer || !(initializer->needs_gradient() || initializer->needs_input_moment())) {
    return statistics;
  }
  const Needs needs{initializer->needs_gradient(), initializer->needs_input_moment()};
  const auto plan = detail::plan_attachments(*model, options);
  for (const Group& group : groups_of(plan, needs, capture.memory())) {
    StatisticsByModule whole = capture_group(model, group, needs, capture, batch);
    for (const detail::Attachment& each : group) {
      // Out of the group's map at once, so that a weight's gradient goes when it is condensed.
      WeightStatistics own = std::move(whole.extract(each.module).mapped());
      TORCH_CHECK_VALUE(
          !own.gradient.defined() || own.gradient.isfinite().all().item<bool>(), each.module,
          ": its gradient is not finite");
      try {
        at::NoGradGuard no_grad;
        initializer->condense(*each.projection, options.for_module(each.module).rank(), own);
      } catch (const c10::ValueError& error) {
        TORCH_CHECK_VALUE(false, each.module, ": ", error.what_without_backtrace());
      }
      statistics.emplace(each.module, std::move(own));
    }
  }
  return statistics;
}

} // namespace rora
