#pragma once

#include "shared_statistics.h"
#include "start_flags.h"

#include <rora/adapters/adapter_options.h>
#include <rora/adapters/weight_statistics.h>
#include <rora/model/causal_lm.h>
#include <rora/training/trainer_options.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora::cli {

/// How an adapter that begins by `StartFlags` is attached, and what a run keeps of it.
class Start {
 public:
  /// `file` keeps the start of the run, and none is kept where it is empty. A run that `goes_on` reads it, where it is
  /// there.
  Start(const StartFlags& flags, std::filesystem::path file, bool goes_on);

  /// Has what it captures kept for other starts, and takes what one of them has captured.
  void share(SharedStatistics shared) {
    shared_ = std::move(shared);
  }

  /// Attaches what `options` mean, drawn from LibTorch's generator. Captures what the start reads over the first
  /// batches that a training by `batches` would take from `examples`; or reads it from --statistics, or writes it
  /// there. `on_batch` is called ahead of each. Throws `FormatError` for statistics, or a start, of another model,
  /// other data or other flags.
  void attach(
      CausalLM model, AdapterOptions options, const std::vector<Example>& examples, const BatchOptions& batches,
      const std::function<void(int64_t done, int64_t of)>& on_batch = nullptr);

  /// Writes the file, where there is something to keep that was not read from it.
  void keep() const;

  /// Throws `FileError` where a run goes on from the step `restored` and how it began is not there any more.
  void require_kept(int64_t restored) const;

  /// Whether the adapter began as an earlier run.
  bool restored() const {
    return restored_;
  }

  /// A line about what it settled on, where there is something to say.
  const std::string& note() const {
    return note_;
  }

  /// Seconds that capturing and decomposing took; capturing counts where it is an earlier start's, too.
  double seconds() const {
    return seconds_;
  }

 private:
  bool adapts_batches() const;
  void attach_restored(CausalLM model, const AdapterOptions& options);
  StatisticsByModule statistics(
      CausalLM model, const AdapterOptions& options, const std::vector<Example>& examples, const BatchOptions& batches,
      const std::function<void(int64_t done, int64_t of)>& on_batch);
  void choose_gamma(CausalLM model, const std::vector<Example>& examples, const BatchOptions& batches);
  /// What decides the statistics, and what decides the start.
  std::map<std::string, std::string> captured_from(
      const CausalLM& model, const AdapterOptions& options, const std::vector<Example>& examples,
      const BatchOptions& batches) const;
  std::map<std::string, std::string> begun_from(const AdapterOptions& options) const;

  StartFlags flags_;
  std::filesystem::path file_;
  bool goes_on_;
  bool restored_ = false;
  std::optional<SharedStatistics> shared_;
  StatisticsByModule start_; ///< to keep
  std::map<std::string, std::string> from_; ///< what it was made from
  std::map<std::string, std::string> captured_from_; ///< of it, what decides what is captured
  std::string note_;
  double seconds_ = 0.0;
};

} // namespace rora::cli
