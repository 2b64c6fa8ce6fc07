#include "sweep_results.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/json_object.h>
#include <rora/error.h>

#include <functional>
#include <sstream>

namespace rora::cli {
namespace {

/// Reads fields of `file`. Throws `FormatError` for one that is missing or of another type.
bool read_fields(const std::filesystem::path& file, const std::function<bool()>& read) {
  try {
    return read();
  } catch (const Json::exception&) {
    throw FormatError(file, "lacks a field of a finished run of a sweep, or holds one of another type");
  }
}

std::map<std::string, TaskScore> task_scores(const Json& tasks) {
  std::map<std::string, TaskScore> scores;
  for (const auto& [name, each] : tasks.items()) {
    scores[name] = {
        each.at("accuracy").get<double>(), each.at("stderr").get<double>(), each.at("unparsed").get<double>(),
        each.at("count").get<int64_t>()};
  }
  return scores;
}

void read_metrics(const std::filesystem::path& file, SweepResult& result) {
  std::istringstream lines(read_file(file));
  int64_t tokens = 0;
  for (std::string line; std::getline(lines, line);) {
    const Json each = Json::parse(line);
    result.losses.push_back(each.at("loss").get<double>());
    result.gradient_norms.push_back(each.at("grad_norm").get<double>());
    if (each.contains("eval_loss")) {
      result.validations.emplace_back(each.at("step").get<int64_t>(), each.at("eval_loss").get<double>());
    }
    tokens += each.at("tokens").get<int64_t>();
    result.seconds += each.at("tokens").get<double>() / each.at("tokens_per_s").get<double>();
    result.peak_mib = each.contains("peak_cuda_mib") ? each.at("peak_cuda_mib").get<int64_t>()
                                                     : each.at("peak_rss_mib").get<int64_t>();
  }
  result.tokens_per_s = result.seconds > 0.0 ? static_cast<double>(tokens) / result.seconds : 0.0;
}

} // namespace

Json read_json(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  JsonObject::parse(file, text); // refuses what is no object
  return Json::parse(text);
}

SweepResult read_result(const std::filesystem::path& folder, const SweepRun& run) {
  SweepResult result;
  result.run = run;
  const std::filesystem::path metrics = folder / "metrics.jsonl";
  const Json record = read_json(folder / "run.json");
  const bool diverged = read_fields(folder / "run.json", [&] {
    result.start_seconds = record.value("start_s", 0.0);
    const Json& results = record.at("results");
    if (results.contains("diverged_after_step")) {
      result.diverged_after = results.at("diverged_after_step").get<int64_t>();
      return true;
    }
    result.reached = {results.at("best_eval_loss").get<double>(), task_scores(results.at("tasks"))};
    result.best_step = results.at("best_step").get<int64_t>();
    result.steps = results.at("steps").get<int64_t>();
    result.trainable = results.at("trainable_parameters").get<int64_t>();
    result.trainable_percent = results.at("trainable_percent").get<double>();
    return false;
  });
  if (!diverged || std::filesystem::exists(metrics)) {
    read_fields(metrics, [&] {
      read_metrics(metrics, result);
      return true;
    });
  }
  if (!diverged && std::ssize(result.losses) != result.steps) {
    throw FormatError(
        metrics,
        "has " + std::to_string(result.losses.size()) + " steps, and the run took " + std::to_string(result.steps) +
            ": remove the run's folder, so that it is made again");
  }
  return result;
}

Reached read_reached(const std::filesystem::path& file) {
  const Json json = read_json(file);
  Reached reached;
  read_fields(file, [&] {
    reached = {json.at("eval_loss").get<double>(), task_scores(json.at("tasks"))};
    return true;
  });
  return reached;
}

} // namespace rora::cli
