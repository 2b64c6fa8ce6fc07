#include "training_results.h"

#include <rora/adapters/attach.h>
#include <rora/training/device_memory.h>

namespace rora::cli {

Json metrics_line(const StepMetrics& metrics) {
  Json line;
  line["step"] = metrics.step;
  line["loss"] = metrics.loss;
  line["lr"] = metrics.lr;
  line["grad_norm"] = metrics.grad_norm;
  line["tokens"] = metrics.tokens;
  line["labelled_tokens"] = metrics.labelled_tokens;
  line["tokens_per_s"] = metrics.tokens_per_s;
  line["peak_rss_mib"] = metrics.peak_rss_mib;
  if (metrics.peak_cuda_mib) {
    line["peak_cuda_mib"] = *metrics.peak_cuda_mib;
  }
  if (metrics.eval_loss) {
    line["eval_loss"] = *metrics.eval_loss;
  }
  return line;
}

void Totals::add(const StepMetrics& metrics) {
  tokens += metrics.tokens;
  labelled_tokens += metrics.labelled_tokens;
  first_loss = first_loss.value_or(metrics.loss);
  final_loss = metrics.loss;
}

Json results_json(
    const CausalLM& model, const TrainingResult& result, const Totals& totals, int64_t restored, double seconds) {
  const auto counts = count_parameters(*model);
  Json results;
  results["steps"] = result.steps;
  results["resumed_from_step"] = restored;
  results["stopped_early"] = result.stopped_early;
  results["first_loss"] = totals.first_loss ? Json(*totals.first_loss) : Json(nullptr);
  results["final_loss"] = totals.first_loss ? Json(totals.final_loss) : Json(nullptr);
  results["best_eval_loss"] = result.best_eval_loss ? Json(*result.best_eval_loss) : Json(nullptr);
  results["best_step"] = result.best_eval_loss ? Json(result.best_step) : Json(nullptr);
  results["seconds"] = seconds;
  results["tokens"] = totals.tokens;
  results["labelled_tokens"] = totals.labelled_tokens;
  results["tokens_per_s"] = static_cast<double>(totals.tokens) / seconds;
  results["trainable_parameters"] = counts.trainable;
  results["total_parameters"] = counts.total;
  results["trainable_percent"] = counts.share();
  results["peak_rss_mib"] = peak_rss_mib();
  if (const auto peak = peak_cuda_mib(model->device())) {
    results["peak_cuda_mib"] = *peak;
  }
  return results;
}

} // namespace rora::cli
