#pragma once

#include "fingerprint.h"

#include <rora/checkpoint/safetensors.h>
#include <rora/training/parameter_table.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

namespace rora::detail {

/// How far a run is, and what its best validation was. Data order, schedule and random numbers follow from `step`.
struct Progress {
  int64_t step = 0;
  std::optional<double> best_eval_loss;
  int64_t best_step = 0;
  int64_t evaluations_without_gain = 0;
  at::Tensor best_values; ///< of the flat buffer, where there was a validation
  bool validation_due = false; ///< the validation that follows on `step` was asked to stop: it is still to be made
  bool not_finite = false; ///< what followed on `step` was not finite: the run may go on at another learning rate
};

/// Writes `output/checkpoint-STEP`: trainer_state.json and trainer_state.safetensors beside what `save` writes, and a
/// digest of each file. The folder takes its name only when it is whole and on the disk, and older checkpoints are
/// removed then: folders of such a name alone. `state` is what the optimiser and the hooks keep. Throws `FileError`,
/// and `std::runtime_error` where a number to be saved is not finite.
void save_training_state(
    const std::filesystem::path& output, const Progress& progress, const ParameterTable& parameters,
    const NamedTensors& state, const RunFingerprint& fingerprint,
    const std::function<void(const std::filesystem::path&)>& save);

/// Removes what a killed process left of a checkpoint that it was writing. Throws `FileError`.
void remove_unfinished_checkpoints(const std::filesystem::path& output);

/// The whole checkpoint of the highest step in `output`, if there is one. Throws `FileError` for a folder that is there
/// and cannot be listed.
std::optional<std::filesystem::path> last_checkpoint(const std::filesystem::path& output);

/// Restores parameters and `state` in place and returns the progress. Throws `FormatError` for a state that is
/// malformed, damaged since it was written, in conflict with itself or with the folder's name, past `total_steps`, or
/// of another run, naming the option that differs.
Progress load_training_state(
    const std::filesystem::path& checkpoint, ParameterTable& parameters, const NamedTensors& state,
    const RunFingerprint& fingerprint, int64_t total_steps);

} // namespace rora::detail
