#pragma once

#include <rora/data/batch.h>

#include <c10/util/Exception.h>

#include <cstdint>
#include <vector>

namespace rora::detail {

/// Which batches each optimiser step takes: so many at a time, those of all workers, and never across the end of an
/// epoch.
class StepPlan {
 public:
  StepPlan(const std::vector<Example>& examples, const BatchOptions& options, int64_t batches_a_step)
      : examples_(examples), options_(options), batches_a_step_(batches_a_step) {}

  struct Step {
    int64_t epoch = 0;
    bool ends_epoch = false;
    BatchPlan batches;
  };

  /// The step of that number, from 0. Cheap when asked for in order.
  Step step(int64_t number) {
    if (number < first_) {
      first_ = 0;
      epoch_ = -1;
    }
    while (epoch_ < 0 || number >= first_ + steps_in(plan_)) {
      first_ += epoch_ < 0 ? 0 : steps_in(plan_);
      plan_ = plan_epoch(examples_, options_, ++epoch_);
    }
    const auto begin = static_cast<size_t>((number - first_) * batches_a_step_);
    const size_t end = std::min(plan_.size(), begin + static_cast<size_t>(batches_a_step_));
    return {epoch_, end == plan_.size(), BatchPlan(plan_.begin() + begin, plan_.begin() + end)};
  }

  /// The steps of the first `epochs` epochs. Throws `c10::ValueError` where there are too many to count.
  int64_t steps_of_epochs(int64_t epochs) const {
    if (options_.packing() && options_.shuffle()) { // rows are filled otherwise in each epoch
      int64_t steps = 0;
      for (int64_t epoch = 0; epoch < epochs; ++epoch) {
        steps += steps_in(plan_epoch(examples_, options_, epoch));
      }
      return steps;
    }
    int64_t steps = 0;
    TORCH_CHECK_VALUE(
        !__builtin_mul_overflow(epochs, steps_in(plan_epoch(examples_, options_, 0)), &steps), "epochs ", epochs,
        " are more steps than can be counted");
    return steps;
  }

 private:
  int64_t steps_in(const BatchPlan& plan) const {
    return (static_cast<int64_t>(plan.size()) - 1) / batches_a_step_ + 1; // an epoch has a batch
  }

  const std::vector<Example>& examples_;
  const BatchOptions options_;
  const int64_t batches_a_step_;
  BatchPlan plan_;
  int64_t epoch_ = -1;
  int64_t first_ = 0; // the number of the present epoch's first step
};

} // namespace rora::detail
