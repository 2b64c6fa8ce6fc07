#include "training_state.h"

#include "../checkpoint/atomic_file.h"
#include "../checkpoint/digest.h"
#include "../checkpoint/json_object.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include <ATen/ATen.h>

#include <charconv>
#include <map>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace rora::detail {
namespace {

constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kUnfinished = ".partial";
constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kTensorsFile = "trainer_state.safetensors";

/// The step in the name of a checkpoint's folder, or nothing for any other name, an unfinished one's too.
std::optional<int64_t> step_of(std::string_view name) {
  int64_t step = 0;
  if (!name.starts_with(kPrefix)) {
    return std::nullopt;
  }
  const char* begin = name.data() + kPrefix.size();
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, step);
  const bool whole = begin != end && error == std::errc() && stop == end;
  return whole && step >= 0 ? std::optional<int64_t>(step) : std::nullopt;
}

bool is_ours(std::string name) {
  if (name.ends_with(kUnfinished)) {
    name.resize(name.size() - kUnfinished.size());
  }
  return step_of(name).has_value();
}

std::vector<std::filesystem::directory_entry> entries_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::directory_entry> entries;
  std::error_code error;
  std::filesystem::directory_iterator next(folder, error);
  for (const std::filesystem::directory_iterator end; !error && next != end; next.increment(error)) {
    entries.push_back(*next);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw FileError(folder, "cannot be listed: " + error.message());
  }
  return entries;
}

void remove_tree(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) {
    throw FileError(path, "cannot be removed: " + error.message());
  }
}

void remove_others(const std::filesystem::path& output, const std::filesystem::path& kept) {
  for (const auto& entry : entries_of(output)) {
    if (entry.is_directory() && entry.path() != kept && is_ours(entry.path().filename().string())) {
      remove_tree(entry.path());
    }
  }
}

void require_finite(const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.is_floating_point() && !tensor.isfinite().all().item<bool>()) {
      throw std::runtime_error(name + " of the training state is not finite, so no checkpoint is written");
    }
  }
}

/// The digest of each file in a folder, by its path in it.
Json digests_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> digests;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      digests[entry.path().lexically_relative(folder).string()] = file_digest(entry.path());
    }
  }
  return digests;
}

std::string digest_of(const Json& state) {
  Digest digest;
  digest.add(state.dump());
  return digest.text();
}

/// Throws `FormatError` for a file of the checkpoint that is not as it was written.
void check_digests(const std::filesystem::path& checkpoint, const JsonObject& state) {
  const auto check = [](const std::filesystem::path& path, const std::string& was, const std::string& is) {
    if (was != is) {
      throw FormatError(path, "is damaged: it had the digest " + was + " when it was written, and now has " + is);
    }
  };
  Json without = json_of(state);
  without.erase("digest");
  check(state.path(), state.string("digest"), digest_of(without));
  const JsonObject files = state.object("files");
  for (const std::string& name : files.names()) {
    check(checkpoint / name, files.string(name), file_digest(checkpoint / name));
  }
}

/// Throws `FormatError` that names what differs, a learning rate only without `another_rate`.
void require_same_run(const JsonObject& run, const RunFingerprint& now, bool another_rate) {
  const auto refuse = [&](const std::string& option, const std::string& was, const std::string& is) {
    if (option == "lr" && another_rate) {
      return;
    }
    run.fail(option, "was " + was + " and is now " + is + ": the run cannot be gone on with");
  };
  for (const auto& [option, value] : now) {
    const std::string before = run.string(option, "absent");
    if (before != value) {
      refuse(option, before, value);
    }
  }
  for (const auto& [option, value] : json_of(run).items()) {
    if (!now.contains(option)) {
      refuse(option, run.string(option), "absent");
    }
  }
}

int64_t integer_in(const JsonObject& state, const std::string& field, int64_t minimum, int64_t maximum) {
  const int64_t value = state.integer(field);
  if (value < minimum || value > maximum) {
    const std::string expected =
        minimum == maximum ? std::to_string(minimum) : std::to_string(minimum) + " to " + std::to_string(maximum);
    state.fail(field, "must be " + expected + ", not " + std::to_string(value));
  }
  return value;
}

/// `named_step`: the one in the folder's name.
Progress read_progress(const JsonObject& state, int64_t named_step, int64_t total_steps) {
  Progress progress;
  progress.step = integer_in(state, "step", 0, total_steps);
  integer_in(state, "step", named_step, named_step);
  integer_in(state, "optimizer_steps", progress.step, progress.step);
  if (state.has("best_eval_loss")) {
    progress.best_eval_loss = state.number("best_eval_loss", 0.0);
  }
  progress.best_step = integer_in(state, "best_step", 0, progress.step);
  progress.evaluations_without_gain = integer_in(state, "evaluations_without_gain", 0, progress.step);
  progress.validation_due = state.boolean("validation_due", false);
  return progress;
}

} // namespace

void save_training_state(
    const std::filesystem::path& output, const Progress& progress, const ParameterTable& parameters,
    const NamedTensors& state, const RunFingerprint& fingerprint,
    const std::function<void(const std::filesystem::path&)>& save) {
  NamedTensors tensors{{"values", parameters.values()}};
  tensors.insert(tensors.end(), state.begin(), state.end());
  if (progress.best_values.defined()) {
    tensors.emplace_back("best_values", progress.best_values);
  }
  require_finite(tensors);
  const std::filesystem::path target = output / (std::string(kPrefix) + std::to_string(progress.step));
  const std::filesystem::path partial = target.string() + std::string(kUnfinished);
  remove_tree(partial);
  std::error_code error;
  std::filesystem::create_directories(partial, error);
  if (error) {
    throw FileError(partial, "cannot be made: " + error.message());
  }
  try {
    if (save) {
      save(partial);
    }
    save_safetensors(partial / kTensorsFile, tensors);
    Json json;
    json["step"] = progress.step;
    json["optimizer_steps"] = progress.step;
    json["best_eval_loss"] = progress.best_eval_loss ? Json(*progress.best_eval_loss) : Json(nullptr);
    json["best_step"] = progress.best_step;
    json["evaluations_without_gain"] = progress.evaluations_without_gain;
    json["validation_due"] = progress.validation_due;
    json["not_finite"] = progress.not_finite;
    json["run"] = fingerprint;
    json["files"] = digests_of(partial);
    json["digest"] = digest_of(json);
    write_file(partial / kStateFile, json.dump(2) + "\n");
    replace_folder(partial, target);
  } catch (...) {
    std::filesystem::remove_all(partial, error);
    throw;
  }
  remove_others(output, target);
}

void remove_unfinished_checkpoints(const std::filesystem::path& output) {
  for (const auto& entry : entries_of(output)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.ends_with(kUnfinished) && is_ours(name)) {
      remove_tree(entry.path());
    }
  }
}

std::optional<std::filesystem::path> last_checkpoint(const std::filesystem::path& output) {
  std::optional<std::filesystem::path> last;
  int64_t last_step = -1;
  for (const auto& entry : entries_of(output)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && *step > last_step) {
      last = entry.path();
      last_step = *step;
    }
  }
  return last;
}

Progress load_training_state(
    const std::filesystem::path& checkpoint, ParameterTable& parameters, const NamedTensors& state,
    const RunFingerprint& fingerprint, int64_t total_steps) {
  const std::filesystem::path path = checkpoint / kStateFile;
  const JsonObject json = JsonObject::parse(path, read_file(path));
  check_digests(checkpoint, json);
  require_same_run(json.object("run"), fingerprint, /*another_rate=*/json.boolean("not_finite", false));
  Progress progress = read_progress(json, step_of(checkpoint.filename().string()).value_or(-1), total_steps);
  const SafetensorsFile file(checkpoint / kTensorsFile);
  const auto read = [&](const std::string& name, const at::Tensor& like) {
    const at::Tensor tensor = file.tensor(name);
    if (tensor.sizes() != like.sizes() || tensor.scalar_type() != like.scalar_type()) {
      throw FormatError(file.path(), name + " is not of the size or dtype of what is trained");
    }
    if (tensor.is_floating_point() && !tensor.isfinite().all().item<bool>()) {
      throw FormatError(file.path(), name + " holds NaN or infinite values");
    }
    return tensor;
  };
  const at::Tensor values = read("values", parameters.values());
  std::vector<at::Tensor> read_state; // all of it before anything changes
  for (const auto& [name, tensor] : state) {
    read_state.push_back(read(name, tensor));
  }
  if (file.contains("best_values") != progress.best_eval_loss.has_value()) {
    throw FormatError(file.path(), "best_values must stand beside best_eval_loss of " + std::string(kStateFile));
  }
  if (progress.best_eval_loss) {
    progress.best_values = read("best_values", parameters.values()).clone();
  }
  at::NoGradGuard no_grad;
  parameters.values().copy_(values);
  for (size_t i = 0; i < state.size(); ++i) {
    at::Tensor(state[i].second).copy_(read_state[i]);
  }
  parameters.mark_changed();
  return progress;
}

} // namespace rora::detail
