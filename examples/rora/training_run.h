#pragma once

#include "lazy_tokenizer.h"
#include "output_folder.h"
#include "training_flags.h"

#include <rora/data/dataset.h>
#include <rora/model/causal_lm.h>
#include <rora/training/hooks.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// Training and validation examples, with what was left out.
struct TrainingData {
  Dataset train;
  Dataset eval;
  Prompts prompts;
  bool has_chats = false; ///< whether the template has written one
};

/// Tokenises the records to train on, and reads and tokenises those to validate on, chats as `adapter` was trained, if
/// one is gone on with, else by the template of the folder `model`, if there is one. The tokenizer is asked for only
/// where a record is not tokenised.
TrainingData load_training_data(
    const TrainingFlags& flags, const std::vector<RecordFile>& records, LazyTokenizer& tokenizer, int64_t vocab_size,
    const std::filesystem::path& model, const std::optional<std::string>& adapter = std::nullopt);

/// Prints how much there is to train on, what was cut or left out, and how prompts are written.
void print_data(const TrainingData& data, const TrainingFlags& flags, const Tokenizer* tokenizer);

/// Prints a line where the rate still rises when the run ends.
void warn_of_warmup(const TrainingFlags& flags, int64_t steps);

/// Keeps beside an adapter, or a model, how its chats were written.
void write_chat_template(const Prompts& prompts, bool has_chats, const std::filesystem::path& folder);

/// A subcommand's run, from a model ready to train to the files in its folder.
struct TrainingRun {
  std::string command;
  const Flags* flags;
  const TrainingFlags* training;
  CausalLM model;
  TrainingData data;
  /// Writes the trained part of the model into a folder: for checkpoints, and at the end.
  std::function<void(const std::filesystem::path&)> save;
  /// Flags that decide what is computed and that the trainer does not know: --resume refuses others.
  std::vector<std::string> identity;
  /// Called once the folder is written to, with the step that the run goes on from; may be called again where it throws
  /// `FileError`.
  std::function<void(int64_t restored)> begun = nullptr;
  /// What the method does at a step besides.
  std::vector<std::shared_ptr<TrainingHook>> hooks = {};

  /// Prints what is trained on, the parameters that are trained and the memory that it will need. Then trains, with
  /// progress, metrics, checkpoints and run.json; with --dry-run prints the first batch instead, as text too where
  /// there is a tokenizer, and checks that the folder can be written and that a checkpoint to go on from fits. SIGINT
  /// (Ctrl-C), SIGTERM and SIGHUP save a checkpoint and give the exit code 128 + the signal's number. Where something
  /// cannot be written it is tried again for half an hour, as room on the disk may be made meanwhile.
  int run(RunFolder& folder, const Tokenizer* tokenizer);
};

} // namespace rora::cli
