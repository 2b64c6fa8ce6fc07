#include "support/gradcheck.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/peft_folder.h>
#include <rora/evaluation/perplexity.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace rora {
namespace {

using rora::testing::adapted;
using rora::testing::counting;
using rora::testing::flat;
using rora::testing::options;
using rora::testing::relative_error;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using ::testing::HasSubstr;

TEST(Trainer, LearnsToCountAndLeavesTheBaseAlone) {
  auto model = adapted();
  const at::Tensor frozen = model->model->layers->at<DecoderLayerImpl>(1).mlp->up_proj->weight.clone();
  const double before = evaluate_perplexity(model, counting(40), 8).loss;
  Trainer trainer(model, counting(40), options(8).max_steps(150));
  trainer.train();
  EXPECT_LT(evaluate_perplexity(model, counting(40), 8).loss, 0.3 * before);
  EXPECT_TRUE(at::equal(model->model->layers->at<DecoderLayerImpl>(1).mlp->up_proj->weight, frozen));
}

TEST(Trainer, AnAccumulatedStepIsThatOfTheOneBigBatch) {
  const auto run = [](int64_t batch_size, int64_t grad_accum) {
    auto model = adapted(0.0, at::kDouble);
    auto chosen = options(batch_size).max_steps(1).grad_accum(grad_accum).clip(0.0);
    chosen.batches().shuffle(false);
    std::vector<StepMetrics> metrics;
    Trainer trainer(model, counting(6), chosen);
    trainer.set_callback([&](const StepMetrics& each) { metrics.push_back(each); });
    trainer.train();
    return std::make_pair(metrics.at(0), flat(model));
  };
  const auto [whole, whole_parameters] = run(6, 1);
  for (const int64_t batch_size : {1, 2, 4}) {
    const auto [step, parameters] = run(batch_size, (6 + batch_size - 1) / batch_size);
    EXPECT_EQ(step.labelled_tokens, whole.labelled_tokens);
    EXPECT_NEAR(step.loss, whole.loss, 1e-12);
    EXPECT_NEAR(step.grad_norm, whole.grad_norm, 1e-12);
    EXPECT_LT(relative_error(parameters, whole_parameters), 1e-9);
  }
}

TEST(Trainer, PackedRowsTrainAsPaddedOnesDo) {
  const auto run = [](bool packing) {
    auto model = adapted();
    auto chosen = options(packing ? 1 : 6).max_steps(1).clip(0.0);
    chosen.batches().shuffle(false);
    chosen.batches().packing(packing);
    chosen.batches().max_length(64);
    StepMetrics metrics;
    Trainer trainer(model, counting(6), chosen);
    trainer.set_callback([&](const StepMetrics& each) { metrics = each; });
    trainer.train();
    return metrics;
  };
  const StepMetrics padded = run(false);
  const StepMetrics packed = run(true);
  EXPECT_EQ(packed.labelled_tokens, padded.labelled_tokens);
  EXPECT_NEAR(packed.loss, padded.loss, 1e-5 * padded.loss);
  EXPECT_NEAR(packed.grad_norm, padded.grad_norm, 1e-5 * padded.grad_norm);
}

TEST(Trainer, PackedRowsHaveTheGradientsOfPaddedOnes) {
  auto model = adapted();
  for (const at::Tensor& each : adapter_parameters(*model)) {
    at::NoGradGuard no_grad;
    at::Tensor(each).normal_(0.0, 0.3);
  }
  const auto examples = counting(6);
  const auto gradients = [&](const std::vector<std::vector<int64_t>>& rows) {
    const Batch batch = make_batch(examples, rows);
    model->zero_grad();
    const LossSum loss = model->loss({batch.input_ids, batch.attention_mask, {}}, batch.labels);
    (loss.sum / static_cast<double>(loss.tokens)).backward();
    std::vector<at::Tensor> parts;
    for (const at::Tensor& each : adapter_parameters(*model)) {
      parts.push_back(each.grad().flatten());
    }
    return at::cat(parts).clone();
  };
  const at::Tensor padded = gradients({{0}, {1}, {2}, {3}, {4}, {5}});
  EXPECT_LT(relative_error(gradients({{0, 1, 2, 3, 4, 5}}), padded), 1e-5);
  EXPECT_LT(relative_error(gradients({{3, 0, 5}, {4, 2, 1}}), padded), 1e-5);
}

TEST(Trainer, ReportsEachStep) {
  auto model = adapted();
  std::vector<StepMetrics> metrics;
  Trainer trainer(model, counting(10), options(4).max_steps(0).epochs(2).warmup_steps(2));
  trainer.set_callback([&](const StepMetrics& each) { metrics.push_back(each); });
  EXPECT_EQ(trainer.total_steps(), 6);
  trainer.train();
  ASSERT_EQ(metrics.size(), 6u);
  int64_t tokens = 0;
  for (size_t i = 0; i < 3; ++i) {
    tokens += metrics[i].tokens;
    EXPECT_EQ(metrics[i].step, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(metrics[i].epoch, 0);
    EXPECT_GT(metrics[i].peak_rss_mib, 0);
    EXPECT_FALSE(metrics[i].peak_cuda_mib.has_value());
    EXPECT_GT(metrics[i].tokens_per_s, 0.0);
  }
  int64_t expected = 0;
  for (const Example& each : counting(10)) {
    expected += static_cast<int64_t>(each.input_ids.size());
  }
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(metrics[5].epoch, 1);
  EXPECT_EQ(metrics[0].lr, 0.0);
  EXPECT_DOUBLE_EQ(metrics[2].lr, 1e-2);
}

TEST(Trainer, CountsStepsOfAnyEpochsAtOnceOrSaysThatThereAreTooMany) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  auto model = adapted();
  const auto total = [&](const TrainerOptions& chosen) { return Trainer(model, counting(10), chosen).total_steps(); };
  const TrainerOptions endless = options(4).max_steps(0).epochs(kMost);
  EXPECT_EQ(total(TrainerOptions(endless).epochs(kMost / 3)), kMost / 3 * 3);
  EXPECT_THROW(total(endless), c10::ValueError);
  EXPECT_EQ(total(TrainerOptions(endless).grad_accum(kMost)), kMost);
  EXPECT_EQ(total(TrainerOptions(endless).max_steps(kMost)), kMost);
  const auto packed = [&](int64_t epochs) {
    return TrainerOptions(endless).epochs(epochs).batches(BatchOptions().batch_size(1).packing(true).max_length(16));
  };
  EXPECT_GT(total(packed(TrainerOptions::kMaxPackedEpochs)), TrainerOptions::kMaxPackedEpochs);
  EXPECT_THROW(total(packed(TrainerOptions::kMaxPackedEpochs + 1)), c10::ValueError);
  EXPECT_EQ(total(packed(kMost).max_steps(3)), 3);
}

TEST(Trainer, TheSameSeedGivesTheSameBitsAndAnotherDoesNot) {
  const auto run = [](uint64_t seed) {
    auto model = adapted(0.2);
    auto chosen = options();
    chosen.batches().seed(seed);
    Trainer trainer(model, counting(20), chosen);
    trainer.train();
    return flat(model);
  };
  const at::Tensor first = run(5);
  for (int again = 1; again < 10; ++again) {
    EXPECT_TRUE(at::equal(run(5), first));
  }
  EXPECT_FALSE(at::equal(run(6), first));
}

TEST(Trainer, KeepsTheBestValidationsParametersAndStopsEarly) {
  auto model = adapted();
  // A rate far too high: the loss gets worse after the first steps.
  Trainer trainer(
      model, counting(20),
      options().lr(0.5).schedule(Schedule::kConstant).max_steps(60).eval_every(1).early_stopping_patience(5));
  trainer.set_validation(counting(5, 20));
  std::vector<double> losses;
  trainer.set_callback([&](const StepMetrics& metrics) { losses.push_back(metrics.eval_loss.value()); });
  const TrainingResult result = trainer.train();
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.steps, result.best_step + 5);
  EXPECT_DOUBLE_EQ(*result.best_eval_loss, *std::min_element(losses.begin(), losses.end()));
  EXPECT_DOUBLE_EQ(evaluate_perplexity(model, counting(5, 20), 4).loss, *result.best_eval_loss);
}

TEST(Trainer, StopsAtALossThatIsNotFinite) {
  auto model = adapted();
  {
    at::NoGradGuard no_grad;
    adapter_parameters(*model)[0].fill_(std::numeric_limits<float>::infinity());
  }
  Trainer trainer(model, counting(4), options());
  EXPECT_THROW(trainer.train(), std::runtime_error);
}

TEST(Trainer, ALossThatIsNotFiniteHarmsNoParameterAndSavesNothing) {
  const TemporaryFolder folder;
  auto model = adapted();
  auto* head = model->head_weight().data_ptr<float>();
  at::Tensor before;
  Trainer trainer(model, counting(4), options().save_every(1).output(folder.path()));
  trainer.set_save([&](const std::filesystem::path& path) { save_adapter(*model, path); });
  trainer.set_callback([&](const StepMetrics& metrics) {
    if (metrics.step == 2) {
      before = flat(model);
      head[0] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  EXPECT_THROW(trainer.train(), std::runtime_error);
  EXPECT_TRUE(at::equal(flat(model), before));
  EXPECT_TRUE(std::filesystem::exists(folder / "checkpoint-2"));
  EXPECT_FALSE(std::filesystem::exists(folder / "checkpoint-3"));
}

TEST(Trainer, GoesOnAfterAStopAsIfThereHadBeenNone) {
  const auto trained = [](bool stops) {
    auto model = adapted(0.2);
    Trainer trainer(model, counting(24), options());
    trainer.set_callback([&](const StepMetrics& metrics) {
      if (stops && metrics.step == 2) {
        trainer.request_stop();
      }
    });
    EXPECT_EQ(trainer.train().interrupted, stops);
    if (stops) {
      EXPECT_EQ(trainer.step(), 2);
      EXPECT_FALSE(trainer.train().interrupted);
    }
    EXPECT_EQ(trainer.step(), 6);
    return flat(model);
  };
  EXPECT_TRUE(at::equal(trained(true), trained(false)));
}

TEST(Trainer, TrainsWithDropoutWhateverModeACallbackLeavesTheModelIn) {
  const auto trained = [](bool evaluates) {
    auto model = adapted(0.2);
    Trainer trainer(model, counting(24), options());
    trainer.set_callback([&](const StepMetrics&) {
      if (evaluates) {
        model->eval();
      }
    });
    trainer.train();
    return flat(model);
  };
  EXPECT_TRUE(at::equal(trained(true), trained(false)));
}

TEST(Trainer, RefusesWhatItCannotTrainOn) {
  EXPECT_THROW(Trainer(adapted(), {}, options()), c10::ValueError);
  EXPECT_THROW(Trainer(tiny_llama(), counting(4), options()), c10::ValueError) << "nothing requires gradients";
  EXPECT_THROW(Trainer(adapted(), counting(4), options().lr(-1)), c10::ValueError);
  EXPECT_THROW(Trainer(adapted(), counting(4), options().grad_accum(0)), c10::ValueError);
  EXPECT_THROW(Trainer(adapted(), counting(4), options().save_every(1)), c10::ValueError);
}

TEST(Trainer, RefusesAModelWhoseAdaptersAreMerged) {
  auto model = adapted();
  merge_adapters(*model);
  try {
    Trainer(model, counting(4), options());
    FAIL() << "it is trained";
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(
        error.what_without_backtrace(), HasSubstr("unmerge the adapters before training: that of model.layers.0"));
  }
}

TEST(Trainer, RefusesAModelInFloat16) {
  try {
    Trainer(adapted(0.0, at::kHalf), counting(4), options());
    FAIL() << "it is trained";
  } catch (const c10::ValueError& error) {
    EXPECT_STREQ(
        error.what_without_backtrace(),
        "a model in float16 is not trained, as its gradients would underflow: bring it to bfloat16 or float32");
  }
}

} // namespace
} // namespace rora
