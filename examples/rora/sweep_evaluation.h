#pragma once

#include "sweep_flags.h"
#include "training_run.h"

#include <rora/data/record.h>
#include <rora/model/causal_lm.h>
#include <rora/text/tokenizer.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// The records of --test-data, and how a model answers them.
class SweepEvaluation {
 public:
  /// Reads the records where there are tasks. Throws `UsageError` and what `read_records` throws.
  SweepEvaluation(const SweepFlags& flags, const Prompts& prompts, LazyTokenizer& tokenizer);

  /// How many answers `measure` asks for.
  int64_t size() const;

  /// By task {"accuracy", "stderr", "unparsed", "count", "files"}: the accuracy is the unweighted mean over the files,
  /// its standard error that of the mean, and "files" has each file's own. `on_progress` is given the answers so far.
  Json measure(CausalLM model, const std::function<void(int64_t)>& on_progress) const;

  /// The digests of the files, by their names.
  Json fingerprint() const;

 private:
  struct TestFile {
    std::string name;
    std::vector<Record> records;
  };

  const SweepFlags& flags_;
  std::vector<SweepTask> tasks_;
  std::vector<TestFile> files_;
  std::optional<ChatTemplate> chat_template_;
  const Tokenizer* tokenizer_ = nullptr;
  GenerationOptions generation_;
};

} // namespace rora::cli
