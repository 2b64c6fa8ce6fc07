#pragma once

#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace rora::testing {

/// `count` sequences that count upwards: of 5, 6, 7, 8 tokens, and again of 5.
inline std::vector<Example> counting(int64_t count) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    Example example;
    for (int64_t place = 0; place < 5 + i % 4; ++place) {
      example.input_ids.push_back((3 * i + place) % 32);
    }
    example.labels = example.input_ids;
    examples.push_back(std::move(example));
  }
  return examples;
}

/// The logits of the tokens 3 to 23.
inline at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

/// All numbers of the adapters.
inline at::Tensor adapter_values(const CausalLM& model) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& each : adapter_parameters(*model)) {
    parts.push_back(each.detach().flatten());
  }
  return at::cat(parts).clone();
}

/// Trains the model's adapter on counting, from the last checkpoint in `folder` on and at most until `stop_after` steps
/// were taken. Returns the losses of its own steps.
inline std::vector<double> train_in(
    const std::filesystem::path& folder, CausalLM model, TrainerOptions options, int64_t stop_after = 1000) {
  Trainer trainer(model, counting(24), options.save_every(2).output(folder).resume(true));
  trainer.set_save([&](const std::filesystem::path& path) { save_adapter(*model, path); });
  std::vector<double> losses;
  trainer.set_callback([&](const StepMetrics& metrics) {
    losses.push_back(metrics.loss);
    if (metrics.step >= stop_after) {
      trainer.request_stop();
    }
  });
  trainer.train();
  return losses;
}

/// One trainer's whole life: a model with an adapter that is trained on counting.
struct TrainingOfToy {
  explicit TrainingOfToy(
      const TrainerOptions& options, DecoderForCausalLM base = tiny_llama(),
      const LowRankOptions& low_rank = LowRankOptions().rank(4).alpha(8).dropout(0.1))
      : model(std::move(base)) {
    at::manual_seed(3);
    attach_adapters(*model, AdapterOptions().low_rank(low_rank));
    trainer.emplace(model, counting(24), options);
    trainer->set_save([this](const std::filesystem::path& path) { save_adapter(*model, path); });
  }
  TrainingOfToy(const TrainingOfToy&) = delete;
  TrainingOfToy& operator=(const TrainingOfToy&) = delete;

  at::Tensor values() const {
    return trainer->parameters().values().clone();
  }
  double loss() const {
    return evaluate_perplexity(model, counting(24)).loss;
  }

  DecoderForCausalLM model;
  std::optional<Trainer> trainer;
};

/// The loss of a trained model is less, and the same once what it saves is read into `fresh`.
inline void expect_it_learns_and_loads(TrainingOfToy& run, DecoderForCausalLM fresh = tiny_llama()) {
  const TemporaryFolder folder;
  const double before = run.loss();
  run.trainer->train();
  const double after = run.loss();
  EXPECT_LT(after, 0.7 * before);
  save_adapter(*run.model, folder.path());
  load_adapter(*fresh, folder.path());
  EXPECT_EQ(evaluate_perplexity(fresh, counting(24)).loss, after);
}

/// A run of `make` that is stopped after three of its steps and goes on in another trainer, from the checkpoint in
/// `resumable`'s folder, has the parameters of one that is not stopped. `expect_alike` compares what else there is.
template <class Run>
void expect_resumed_is_uninterrupted(
    const std::function<std::unique_ptr<Run>(const TrainerOptions&)>& make, const TrainerOptions& options,
    const TrainerOptions& resumable, const std::function<void(const Run&, const Run&)>& expect_alike = {}) {
  const auto whole = make(options);
  whole->trainer->train();
  const auto first = make(resumable);
  first->trainer->set_callback([&](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      first->trainer->request_stop();
    }
  });
  EXPECT_TRUE(first->trainer->train().interrupted);
  const auto second = make(resumable);
  EXPECT_EQ(second->trainer->restore(), 3);
  if (expect_alike) {
    expect_alike(*second, *first);
  }
  second->trainer->train();
  EXPECT_TRUE(at::equal(second->values(), whole->values()));
  if (expect_alike) {
    expect_alike(*second, *whole);
  }
}

} // namespace rora::testing
