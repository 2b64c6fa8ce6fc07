#include <rora/training/trainer_options.h>

#include <c10/util/Exception.h>

#include <cmath>
#include <limits>

namespace rora {

void TrainerOptions::validate() const {
  TORCH_CHECK_VALUE(std::isfinite(lr_) && lr_ >= 0.0, "lr must be a number of at least 0");
  TORCH_CHECK_VALUE(warmup_steps_ >= 0, "warmup_steps must not be negative");
  TORCH_CHECK_VALUE(epochs_ >= 1 || max_steps_ >= 1, "epochs must be at least 1");
  TORCH_CHECK_VALUE(max_steps_ >= 0, "max_steps must not be negative");
  TORCH_CHECK_VALUE(
      max_steps_ > 0 || !batches_.packing() || !batches_.shuffle() || epochs_ <= kMaxPackedEpochs, "epochs over ",
      kMaxPackedEpochs, " are not counted ahead where rows are packed anew for each: max_steps says how long");
  TORCH_CHECK_VALUE(grad_accum_ >= 1, "grad_accum must be at least 1");
  TORCH_CHECK_VALUE(clip_ >= 0.0, "clip must not be negative");
  adamw_.validate();
  TORCH_CHECK_VALUE(batches_.batch_size() >= 1, "batch_size must be at least 1");
  TORCH_CHECK_VALUE(eval_every_ >= 0, "eval_every must not be negative");
  TORCH_CHECK_VALUE(save_every_ >= 0, "save_every must not be negative");
  TORCH_CHECK_VALUE(early_stopping_patience_ >= 0, "early_stopping_patience must not be negative");
  TORCH_CHECK_VALUE((save_every_ == 0 && !resume_) || !output_.empty(), "checkpoints need an output folder");
  if (reducer_ != nullptr) {
    TORCH_CHECK_VALUE(
        reducer_->world_size() >= 1 && reducer_->rank() >= 0 && reducer_->rank() < reducer_->world_size(),
        "a reducer's rank must be from 0 to below its world size, not ", reducer_->rank(), " of ",
        reducer_->world_size());
    TORCH_CHECK_VALUE(
        grad_accum_ <= std::numeric_limits<int64_t>::max() / reducer_->world_size(), "grad_accum ", grad_accum_,
        " of each worker are more batches than can be counted");
  }
}

} // namespace rora
