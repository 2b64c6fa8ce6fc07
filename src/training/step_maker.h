#pragma once

#include "../checkpoint/digest.h"
#include "step_plan.h"

#include <rora/training/train_step.h>
#include <rora/training/trainer_options.h>

#include <cstdint>
#include <vector>

namespace rora::detail {

/// Makes the batches of a step, on the CPU: this worker's, of all that the plan has.
class StepMaker {
 public:
  /// Both must outlive it.
  StepMaker(const std::vector<Example>& examples, const TrainerOptions& options)
      : examples_(examples),
        options_(options),
        workers_(options.reducer() != nullptr ? options.reducer()->world_size() : 1),
        rank_(options.reducer() != nullptr ? options.reducer()->rank() : 0),
        plan_(examples, options.batches(), options.grad_accum() * workers_) {}

  struct Step {
    int64_t epoch = 0;
    bool ends_epoch = false;
    StepBatches batches;
    int64_t tokens = 0; ///< of all workers
  };

  /// The step of that number, from 0. Cheap when asked for in order.
  Step step(int64_t number) {
    const auto planned = plan_.step(number);
    Step made;
    made.epoch = planned.epoch;
    made.ends_epoch = planned.ends_epoch;
    made.batches.number = number;
    made.batches.seed = step_seed(number);
    made.batches.places = std::ssize(planned.batches);
    for (int64_t place = 0; place < made.batches.places; ++place) {
      const auto& rows = planned.batches[static_cast<size_t>(place)];
      made.batches.labelled_tokens += count_labelled_tokens(examples_, rows);
      for (const auto& row : rows) {
        for (const int64_t index : row) {
          made.tokens += std::ssize(examples_[static_cast<size_t>(index)].input_ids);
        }
      }
      if (place % workers_ == rank_) {
        made.batches.batches.push_back({make_batch(examples_, rows), place, batch_seed(number, place)});
      }
    }
    return made;
  }

  /// What the random numbers of a step follow from.
  uint64_t step_seed(int64_t number) const {
    return mix(~batch_seed(number, 0));
  }

  int64_t steps_of_epochs(int64_t epochs) const {
    return plan_.steps_of_epochs(epochs);
  }

  /// How many workers train together, and which of them this is.
  int64_t workers() const {
    return workers_;
  }
  int64_t rank() const {
    return rank_;
  }

 private:
  uint64_t batch_seed(int64_t number, int64_t place) const {
    const uint64_t of_step = static_cast<uint64_t>(number) * 0x10001;
    return mix(mix(options_.batches().seed()) ^ mix(of_step + static_cast<uint64_t>(place)));
  }

  const std::vector<Example>& examples_;
  const TrainerOptions& options_;
  const int64_t workers_;
  const int64_t rank_;
  StepPlan plan_;
};

} // namespace rora::detail
