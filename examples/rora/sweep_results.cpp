#include "sweep_results.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/json_object.h>
#include <rora/error.h>

#include <sstream>

namespace rora::cli {
namespace {

Json read_json(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  JsonObject::parse(file, text); // refuses what is no object
  return Json::parse(text);
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

SweepResult read_result(const std::filesystem::path& folder, const SweepRun& run) {
  SweepResult result;
  result.run = run;
  std::filesystem::path file = folder / "run.json";
  try {
    const Json record = read_json(file);
    const Json& results = record.at("results");
    file = folder / "metrics.jsonl";
    if (results.contains("diverged_at_step")) {
      result.diverged_at = results.at("diverged_at_step").get<int64_t>();
      if (std::filesystem::exists(file)) {
        read_metrics(file, result);
      }
      return result;
    }
    result.reached = {results.at("best_eval_loss").get<double>(), task_scores(results.at("tasks"))};
    result.best_step = results.at("best_step").get<int64_t>();
    result.trainable = results.at("trainable_parameters").get<int64_t>();
    result.trainable_percent = results.at("trainable_percent").get<double>();
    read_metrics(file, result);
  } catch (const Json::exception& error) {
    throw FormatError(file, std::string("is not what a finished run of a sweep leaves: ") + error.what());
  }
  return result;
}

Reached read_reached(const std::filesystem::path& file) {
  try {
    const Json json = read_json(file);
    return {json.at("eval_loss").get<double>(), task_scores(json.at("tasks"))};
  } catch (const Json::exception& error) {
    throw FormatError(file, std::string("is not what a sweep leaves: ") + error.what());
  }
}

} // namespace rora::cli
