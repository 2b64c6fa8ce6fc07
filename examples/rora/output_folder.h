#pragma once

#include "flags.h"

#include <rora/checkpoint/folder_lock.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// Throws `FileError` for a folder that holds a model or an adapter, which what is written there would be mixed with.
void require_neither_model_nor_adapter(const std::filesystem::path& path);

/// Files of a model folder that belong to its tokenizer or to generation: they go along, byte for byte.
void copy_companion_files(const std::filesystem::path& from, const std::filesystem::path& to);

/// A folder inside `output` where files are written before they take their places there: a failure leaves none of them.
/// A process that a signal ends leaves it, as `.partial`; the next one that writes to `output` removes it. Other
/// processes are kept out of `output` meanwhile.
class StagedFolder {
 public:
  /// Makes `output`, if need be, and the folder in it. Throws `FileError`, also where another process writes there.
  explicit StagedFolder(std::filesystem::path output);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::filesystem::path& path() const {
    return stage_;
  }

  /// Moves the files to their places. Throws `FileError`.
  void commit();

 private:
  std::filesystem::path output_;
  std::filesystem::path stage_;
  std::vector<std::filesystem::path> made_; ///< the deepest first
  std::optional<FolderLock> lock_;
};

/// The folder of a training run: run.json, metrics.jsonl, checkpoints and, in the end, what was trained.
class RunFolder {
 public:
  /// Throws `FileError` for what is no folder, for what could not be made or written to, for one that another process
  /// writes to, and, without `resume`, for one that already holds a run or any of `results`.
  RunFolder(std::filesystem::path path, bool resume, const std::vector<std::string>& results);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }

  /// Whether a run has ended here.
  bool finished() const {
    return finished_;
  }

  /// Begins to write: `run` as run.json, and metrics.jsonl with the lines of the first `restored` steps alone. What a
  /// killed process left half-written is removed. Until a line is appended, destruction takes back what was made here.
  /// Throws `FileError`.
  void begin(const Json& run, int64_t restored);

  /// Appends one line to metrics.jsonl: all of it or nothing. Throws `FileError`.
  void append(const Json& line);

  /// Adds a validation to the last line, which is of the step that the run went on from. Throws `FileError`, and may
  /// then be called again.
  void add_validation(double eval_loss);

  /// Writes run.json anew. Throws `FileError`.
  void write_run(const Json& run);

 private:
  void require_unused() const;
  void require_writable() const;
  void keep_metrics(int64_t restored);

  std::filesystem::path path_;
  bool resume_;
  std::vector<std::string> results_;
  std::optional<FolderLock> lock_;
  bool finished_ = false;
  Json last_line_; ///< of metrics.jsonl when the run was gone on with
  int64_t last_line_bytes_ = 0; ///< those of it that are in the file
  std::vector<std::filesystem::path> made_folders_; ///< the deepest first
  bool made_files_ = false;
  int metrics_ = -1;
};

} // namespace rora::cli
