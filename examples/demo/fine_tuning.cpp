#include "demo/fine_tuning.h"

#include <rora/adapters/attach.h>
#include <rora/model/generation.h>
#include <rora/training/trainer.h>

#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace rora::demo {
namespace {

constexpr int64_t kGenerationBatch = 64;

} // namespace

Accuracy measure_accuracy(CausalLM model, const Tokenizer& tokenizer, const std::vector<Record>& records) {
  int64_t correct = 0;
  for (size_t start = 0; start < records.size(); start += kGenerationBatch) {
    const size_t end = std::min<size_t>(start + kGenerationBatch, records.size());
    std::vector<std::vector<int64_t>> prompts;
    size_t longest = 0;
    for (size_t i = start; i < end; ++i) {
      prompts.push_back(tokenizer.encode(records[i].prompt));
      longest = std::max(longest, tokenizer.encode(records[i].completion, false).size());
    }
    const auto answers =
        generate(model, prompts, GenerationOptions().max_new_tokens(static_cast<int64_t>(longest) + 1));
    for (size_t i = start; i < end; ++i) {
      correct += tokenizer.decode(answers[i - start], /*skip_special_tokens=*/true) == records[i].completion ? 1 : 0;
    }
  }
  const auto count = static_cast<double>(records.size());
  const double share = static_cast<double>(correct) / count;
  return {share, std::sqrt(share * (1.0 - share) / count)};
}

LowRankOptions low_rank_options(Method method, int64_t rank, double alpha) {
  return LowRankOptions()
      .rank(rank)
      .alpha(alpha)
      .scaling(method == Method::kRoRA ? Scaling::kRankStabilized : Scaling::kStandard)
      .dora(method == Method::kDoRA);
}

Run fine_tune(
    FineTuningTask& task, Method method, int64_t rank, const ComparisonOptions& options,
    const std::function<void(int64_t step, double loss)>& on_step) {
  torch::manual_seed(options.seed);
  attach_adapters(*task.model, AdapterOptions().low_rank(low_rank_options(method, rank, options.alpha)));

  Run run;
  run.method = method;
  run.rank = rank;
  const ParameterCounts counts = count_parameters(*task.model);
  run.trainable = counts.trainable;
  run.trainable_share = counts.share();

  Trainer trainer(
      task.model, task.examples,
      TrainerOptions()
          .lr(options.lr)
          .schedule(Schedule::kLinear)
          .warmup_steps(options.steps / 10)
          .max_steps(options.steps)
          .batches(BatchOptions().batch_size(options.batch_size).seed(options.seed)));
  trainer.set_callback([&](const StepMetrics& metrics) {
    run.losses.push_back(metrics.loss);
    on_step(metrics.step, metrics.loss);
  });
  const auto start = std::chrono::steady_clock::now();
  trainer.train();
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  task.model->eval();
  run.accuracy = measure_accuracy(task.model, *task.tokenizer, task.facts);
  detach_adapters(*task.model);
  return run;
}

} // namespace rora::demo
