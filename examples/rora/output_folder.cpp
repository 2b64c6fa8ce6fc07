#include "output_folder.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/json_object.h>
#include <rora/error.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <system_error>

namespace rora::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRunFile = "run.json";
constexpr const char* kMetricsFile = "metrics.jsonl";
constexpr const char* kCheckpointPrefix = "checkpoint-";
constexpr const char* kStage = ".partial";

constexpr const char* kTemplatesFolder = "additional_chat_templates";

const std::vector<std::string> kCompanionFiles{
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",      "merges.txt",     "chat_template.jinja",   "generation_config.json"};

std::string last_error() {
  return std::strerror(errno);
}

/// Removes those that are empty.
void remove_folders(const std::vector<fs::path>& folders) {
  std::error_code error;
  for (const fs::path& folder : folders) {
    fs::remove(folder, error);
  }
}

/// The folders that had to be made, the deepest first.
std::vector<fs::path> make_folder(const fs::path& path) {
  std::vector<fs::path> missing;
  std::error_code error;
  for (fs::path each = path; !each.empty() && !fs::exists(each, error); each = each.parent_path()) {
    missing.push_back(each);
  }
  fs::create_directories(path, error);
  if (error) {
    const std::string reason = error.message();
    remove_folders(missing);
    throw FileError(path, "cannot be made: " + reason);
  }
  return missing;
}

void require_folder_or_nothing(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_directory(status)) {
    throw FileError(path, "is not a folder");
  }
}

/// Whether a line of metrics is whole and of a step up to `last`.
bool is_metrics_up_to(const std::string& line, int64_t last) {
  try {
    return JsonObject::parse(kMetricsFile, line).integer("step") <= last;
  } catch (const FormatError&) {
    return false; // what a crash of the machine left
  }
}

/// The name of what shows that a run has been here, or nothing.
std::optional<std::string> trace_of_run(const fs::path& path, const std::vector<std::string>& results) {
  std::vector<std::string> names{kRunFile, kMetricsFile};
  names.insert(names.end(), results.begin(), results.end());
  std::error_code error;
  for (const std::string& name : names) {
    if (fs::exists(path / name, error)) {
      return name;
    }
  }
  fs::directory_iterator next(path, error);
  for (const fs::directory_iterator end; !error && next != end; next.increment(error)) {
    const std::string name = next->path().filename().string();
    if (name.starts_with(kCheckpointPrefix)) {
      return name;
    }
  }
  const bool absent = error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory;
  if (error && !absent) {
    throw FileError(path, "cannot be listed: " + error.message());
  }
  return std::nullopt;
}

/// Removes what a killed process left half-written in a folder that no other one writes to.
void sweep(const fs::path& output) {
  std::error_code error;
  fs::remove_all(output / kStage, error);
  if (error) {
    throw FileError(output / kStage, "cannot be removed: " + error.message());
  }
  remove_temporary_files(output);
}

} // namespace

void require_neither_model_nor_adapter(const fs::path& path) {
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json"}) {
    if (fs::exists(path / name)) {
      const std::string kind = std::string(name).starts_with("adapter") ? "an adapter" : "a model";
      throw FileError(path, "already holds " + kind + " (" + name + "): give another folder");
    }
  }
}

void copy_companion_files(const fs::path& from, const fs::path& to) {
  for (const std::string& name : kCompanionFiles) {
    if (fs::exists(from / name)) {
      write_file(to / name, read_file(from / name));
    }
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(from / kTemplatesFolder, ignored)) {
    if (entry.path().extension() == ".jinja") {
      make_folder(to / kTemplatesFolder);
      write_file(to / kTemplatesFolder / entry.path().filename(), read_file(entry.path()));
    }
  }
}

StagedFolder::StagedFolder(fs::path output) : output_(std::move(output)), stage_(output_ / kStage) {
  require_folder_or_nothing(output_);
  made_ = make_folder(output_);
  try {
    lock_.emplace(output_);
    sweep(output_);
    make_folder(stage_);
  } catch (...) {
    remove_folders(made_);
    throw;
  }
}

StagedFolder::~StagedFolder() {
  std::error_code error;
  fs::remove_all(stage_, error);
  remove_folders(made_);
}

void StagedFolder::commit() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(stage_)) {
    files.push_back(entry.path());
  }
  for (const fs::path& file : files) {
    std::error_code error;
    const fs::path target = output_ / file.filename();
    if (fs::is_directory(file, error)) { // which takes no other's place that holds anything
      fs::remove_all(target, error);
    }
    fs::rename(file, target, error);
    if (error) {
      throw FileError(target, "cannot be written: " + error.message());
    }
  }
}

RunFolder::RunFolder(fs::path path, bool resume, const std::vector<std::string>& results)
    : path_(std::move(path)), resume_(resume), results_(results) {
  require_folder_or_nothing(path_);
  std::error_code error;
  if (fs::exists(path_, error)) {
    lock_.emplace(path_);
  }
  require_unused();
  if (resume && fs::exists(path_ / kRunFile, error)) {
    finished_ = JsonObject::read(path_ / kRunFile).boolean("finished", false);
  }
  if (finished_) { // nothing follows that would do it
    sweep(path_);
  }
  require_writable();
}

void RunFolder::require_unused() const {
  const auto trace = resume_ ? std::nullopt : trace_of_run(path_, results_);
  if (trace) {
    throw FileError(path_, "already holds a run (" + *trace + "): give --resume or another folder");
  }
}

RunFolder::~RunFolder() {
  if (metrics_ >= 0) {
    ::close(metrics_);
  }
  std::error_code error;
  if (made_files_) {
    fs::remove(path_ / kRunFile, error);
    fs::remove(path_ / kMetricsFile, error);
  }
  remove_folders(made_folders_);
}

void RunFolder::require_writable() const {
  if (path_.empty()) {
    throw UsageError("--output is empty");
  }
  std::error_code error;
  fs::path nearest = fs::absolute(path_);
  while (!fs::exists(nearest, error) && nearest != nearest.parent_path()) {
    nearest = nearest.parent_path();
  }
  if (!fs::is_directory(nearest, error)) {
    throw FileError(path_, "cannot be made: " + nearest.string() + " is not a folder");
  }
  if (::access(nearest.c_str(), W_OK | X_OK) != 0) {
    throw FileError(path_, "cannot be written: " + nearest.string() + ": " + last_error());
  }
}

void RunFolder::begin(const Json& run, int64_t restored) {
  made_folders_ = make_folder(path_);
  if (!lock_) {
    lock_.emplace(path_);
    require_unused(); // another run may have come first while this one was made ready
  }
  sweep(path_);
  made_files_ = !fs::exists(path_ / kRunFile) && !fs::exists(path_ / kMetricsFile);
  write_run(run);
  keep_metrics(restored);
  const fs::path path = path_ / kMetricsFile;
  metrics_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (metrics_ < 0) {
    throw FileError(path, "cannot be opened: " + last_error());
  }
}

void RunFolder::keep_metrics(int64_t restored) {
  const fs::path path = path_ / kMetricsFile;
  if (!fs::exists(path)) {
    return;
  }
  const std::string content = read_file(path);
  std::string kept, last_line;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = content.find('\n', begin);
    if (end == std::string::npos) {
      break; // cut off by whatever ended the run
    }
    std::string line = content.substr(begin, end + 1 - begin);
    if (!is_metrics_up_to(line, restored)) {
      break;
    }
    kept += line;
    last_line = std::move(line);
    begin = end + 1;
  }
  write_file(path, kept);
  last_line_ = last_line.empty() ? Json() : Json::parse(last_line);
  last_line_bytes_ = std::ssize(last_line);
  const int64_t last = last_line_.is_object() ? last_line_["step"].get<int64_t>() : 0;
  if (last < restored) {
    std::cout << path.string() << " lacks the steps from " << last + 1 << " to " << restored << std::endl;
  }
}

void RunFolder::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  const off_t size = ::lseek(metrics_, 0, SEEK_END);
  const ssize_t written = ::write(metrics_, text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size())) {
    const std::string reason = written < 0 ? last_error() : std::string(std::strerror(ENOSPC));
    if (written > 0 && ::ftruncate(metrics_, size) != 0) {
      throw FileError(path_ / kMetricsFile, "cannot be written, and its last line is cut off: " + reason);
    }
    throw FileError(path_ / kMetricsFile, "cannot be written: " + reason);
  }
  made_files_ = false; // from here on it is a run
  made_folders_.clear();
}

void RunFolder::add_validation(double eval_loss) {
  if (!last_line_.is_object()) {
    return;
  }
  if (::ftruncate(metrics_, ::lseek(metrics_, 0, SEEK_END) - last_line_bytes_) != 0) {
    throw FileError(path_ / kMetricsFile, "cannot be written: " + last_error());
  }
  last_line_bytes_ = 0;
  last_line_["eval_loss"] = eval_loss;
  append(last_line_);
}

void RunFolder::write_run(const Json& run) {
  write_file(path_ / kRunFile, run.dump(2) + "\n");
  if (run.value("finished", false)) { // a run of no step too
    made_files_ = false;
    made_folders_.clear();
  }
}

} // namespace rora::cli
