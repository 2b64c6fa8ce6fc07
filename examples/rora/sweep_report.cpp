#include "sweep_report.h"

#include "sweep_figures.h"
#include "sweep_tables.h"

#include "common/markup.h"

#include <rora/checkpoint/file.h>

#include <cmath>

namespace rora::cli {
namespace {

/// "1 seed", "2 seeds".
std::string counted(size_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

std::string last_name(const std::string& path) {
  const std::filesystem::path normal = std::filesystem::path(path + "/.").lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

std::string setting(const SweepReport& report) {
  const auto& common = report.common;
  const auto names = [](const Json& files) {
    std::string text;
    for (const Json& each : files) {
      text += (text.empty() ? "" : ", ") + last_name(each.get<std::string>());
    }
    return text;
  };
  std::string text = counted(report.results.size(), "run") + " of " + last_name(common.at("model").get<std::string>()) +
      " on " + names(common.at("data")) + ", validated on " + names(common.at("eval-data")) + ": " +
      counted(report.axes.methods.size(), "method") + ", " + counted(report.axes.ranks.size(), "rank") + ", α = ";
  for (size_t i = 0; i < report.axes.alphas.size(); ++i) {
    text += (i == 0 ? "" : " and ") + report.axes.alphas[i].text();
  }
  const int64_t batch = common.at("batch-size").get<int64_t>() * common.at("grad-accum").get<int64_t>();
  return text + ", " + counted(report.axes.lrs.size(), "learning rate") + ", " +
      counted(report.axes.seeds.size(), "seed") + "; " + std::to_string(report.total_steps) + " steps of " +
      counted(static_cast<size_t>(batch), common.at("packing").get<bool>() ? "packed row" : "example") + ", " +
      common.at("dtype").get<std::string>() + ".";
}

std::string cell(const std::string& text) {
  return "," + text;
}

/// Method, alpha, rank, rate and seed: what each table of numbers begins with.
std::string csv_start(const SweepRun& run) {
  return run.method->name + cell(run.method->has_alpha ? run.alpha.text() : "") +
      cell(run.method->has_rank ? std::to_string(run.rank) : "") + cell(number_text(run.lr)) +
      cell(std::to_string(run.seed));
}
constexpr const char* kCsvStart = "method,alpha,rank,lr,seed";

std::string runs_csv(const SweepReport& report) {
  std::string csv =
      std::string(kCsvStart) + ",steps,diverged_after_step,eval_loss,best_step,trainable_parameters,trainable_percent";
  for (const std::string& task : report.tasks) {
    csv += cell(task + "_accuracy") + cell(task + "_stderr") + cell(task + "_unparsed");
  }
  csv += "\n";
  for (const SweepResult& result : report.results) {
    csv += csv_start(result.run) + cell(std::to_string(result.losses.size()));
    if (result.diverged_after) {
      csv += cell(std::to_string(*result.diverged_after)) + std::string(4 + 3 * report.tasks.size(), ',') + "\n";
      continue;
    }
    csv += cell("") + cell(Json(result.reached.eval_loss).dump()) + cell(std::to_string(result.best_step)) +
        cell(std::to_string(result.trainable)) + cell(Json(result.trainable_percent).dump());
    for (const std::string& task : report.tasks) {
      const TaskScore& score = result.reached.tasks.at(task);
      csv += cell(Json(score.accuracy).dump()) + cell(Json(score.standard_error).dump()) +
          cell(Json(score.unparsed).dump());
    }
    csv += "\n";
  }
  return csv;
}

std::string curves_csv(const SweepReport& report) {
  std::string csv = std::string(kCsvStart) + ",step,loss,grad_norm,eval_loss\n";
  for (const SweepResult& result : report.results) {
    const std::string start = csv_start(result.run);
    auto validation = result.validations.begin();
    for (size_t i = 0; i < result.losses.size(); ++i) {
      const auto step = static_cast<int64_t>(i) + 1;
      const bool validated = validation != result.validations.end() && validation->first == step;
      csv += start + cell(std::to_string(step)) + cell(Json(result.losses[i]).dump()) +
          cell(Json(result.gradient_norms[i]).dump()) + cell(validated ? Json(validation->second).dump() : "") + "\n";
      validation += validated ? 1 : 0;
    }
  }
  return csv;
}

std::string times_csv(const SweepReport& report) {
  std::string csv = std::string(kCsvStart) + ",start_seconds,seconds,tokens_per_s,peak_mib\n";
  for (const SweepResult& result : report.results) {
    csv += csv_start(result.run) + cell(Json(result.start_seconds).dump()) + cell(Json(result.seconds).dump()) +
        cell(Json(result.tokens_per_s).dump()) + cell(std::to_string(result.peak_mib)) + "\n";
  }
  return csv;
}

Json estimate_json(const theory::Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}};
}

Json start_json(const Method& method, const AlphaRule& alpha) {
  return {{"method", method.name}, {"alpha", method.has_alpha ? Json(alpha.text()) : Json(nullptr)}};
}

Json reached_json(const Reached& reached) {
  Json json{{"eval_loss", reached.eval_loss}};
  for (const auto& [task, score] : reached.tasks) {
    json[task] = {
        {"accuracy", score.accuracy},
        {"stderr", score.standard_error},
        {"unparsed", score.unparsed},
        {"count", score.count}};
  }
  return json;
}

Json report_json(const SweepReport& report) {
  Json json;
  json["config"] = report.common;
  json["seeds"] = report.axes.seeds;
  json["within"] = report.within;
  json["base"] = reached_json(report.base);
  if (report.reference) {
    json["reference"] = reached_json(*report.reference);
  }
  const std::vector<Metric> all = metrics(report.tasks);
  for (const RateCurve& curve : rate_curves(report)) {
    Json entry = start_json(*curve.method, curve.alpha);
    entry["rank"] = curve.rank == 0 ? Json(nullptr) : Json(curve.rank);
    const std::vector<LossAtRate> losses = losses_of(curve);
    const auto best = best_rate(losses);
    const auto band = rate_band(losses, report.within);
    entry["best_lr"] = best ? Json(best->lr) : Json(nullptr);
    entry["best_lr_tried"] = best ? Json(losses[best->index].lr) : Json(nullptr);
    entry["at_edge"] = best ? Json(best->at_edge) : Json(nullptr);
    if (band) {
      entry["band"] = {
          {"low", band->low}, {"high", band->high}, {"open_low", band->open_low}, {"open_high", band->open_high}};
    }
    for (const RatePoint& point : curve.points) {
      Json rate{{"lr", point.lr}, {"diverged", point.diverged()}};
      for (const Metric& metric : all) {
        const Mean mean = point.mean(metric);
        if (mean.count > 0) {
          rate[metric.name] = {
              {"mean", mean.value},
              {"stderr", mean.count > 1 ? Json(mean.standard_error) : Json(nullptr)},
              {"count", mean.count}};
          if (const auto share = won_back(report, metric, mean)) {
            rate[metric.name]["won_back"] = *share;
          }
        }
      }
      entry["rates"].push_back(rate);
    }
    json["curves"].push_back(entry);
  }
  for (const RateDrift& drift : rate_drifts(report)) {
    Json entry = start_json(*drift.method, drift.alpha);
    entry["exponent"] = drift.exponent ? estimate_json(*drift.exponent) : Json(nullptr);
    entry["points"] = drift.best.size();
    entry["left_out"] = drift.left_out;
    entry["in_place"] = verdict_of(drift);
    json["best_rate_over_rank"].push_back(entry);
  }
  for (const Metric& metric : all) {
    for (const Difference& each : differences(report, metric)) {
      Json entry = start_json(*each.method, each.alpha);
      entry["less"] = each.reference->name;
      entry["less_alpha"] = each.reference->has_alpha ? Json(each.alpha.text()) : Json(nullptr);
      entry["rank"] = each.rank == 0 ? Json(nullptr) : Json(each.rank);
      entry["metric"] = metric.name;
      entry["difference"] = each.count > 1 ? estimate_json(each.estimate) : Json{{"value", each.estimate.value}};
      entry["count"] = each.count;
      json["differences"].push_back(entry);
    }
  }
  return json;
}

std::string report_html(const SweepReport& report) {
  const std::string title = "What the scale does over rank and learning rate";
  std::string html = "<main class=\"wide\">\n<h1>" + title + "</h1>\n<p>" + examples::escape_markup(setting(report)) +
      "</p>\n" + sweep_figures(report);
  for (const examples::TitledTable& table : sweep_tables(report)) {
    html += html_section(table);
  }
  html += html_section(cost_table(report));
  return examples::html_page(title, sweep_style(report), html + "</main>\n");
}

} // namespace

std::string sweep_text(const SweepReport& report) {
  std::string text = setting(report) + "\n";
  for (const examples::TitledTable& table : sweep_tables(report)) {
    text += text_section(table);
  }
  return text + text_section(cost_table(report));
}

void write_report(const SweepReport& report, const std::filesystem::path& folder) {
  write_file(folder / "sweep.json", report_json(report).dump(2) + "\n");
  write_file(folder / "sweep.csv", runs_csv(report));
  write_file(folder / "curves.csv", curves_csv(report));
  write_file(folder / "times.csv", times_csv(report));
  write_file(folder / "sweep.html", report_html(report));
}

} // namespace rora::cli
