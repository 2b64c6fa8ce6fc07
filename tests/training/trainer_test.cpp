#include "support/gradcheck.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/trainer.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rora {
namespace {

using rora::testing::relative_error;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

/// Sequences that count upwards from a seed, labelled from a third of their length on: unequal lengths and label
/// counts.
std::vector<Example> counting(int64_t count, int64_t first = 0) {
  std::vector<Example> examples;
  for (int64_t i = first; i < first + count; ++i) {
    Example example;
    const int64_t length = 4 + i % 7;
    for (int64_t place = 0; place < length; ++place) {
      const int64_t id = (3 * i + place) % 32;
      example.input_ids.push_back(id);
      example.labels.push_back(3 * place < length ? kIgnoreIndex : id);
    }
    examples.push_back(example);
  }
  return examples;
}

DecoderForCausalLM adapted(double dropout = 0.0, at::ScalarType dtype = at::kFloat) {
  auto model = tiny_llama();
  model->to(dtype);
  at::manual_seed(31);
  attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8).dropout(dropout)));
  return model;
}

TrainerOptions options(int64_t batch_size = 4) {
  TrainerOptions options;
  options.lr(1e-2).max_steps(6);
  BatchOptions batches;
  batches.batch_size(batch_size);
  batches.seed(5);
  return options.batches(batches);
}

at::Tensor flat(const CausalLM& model) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& each : adapter_parameters(*model)) {
    parts.push_back(each.detach().flatten());
  }
  return at::cat(parts).clone();
}

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

class ResumeTest : public ::testing::Test {
 protected:
  TrainerOptions resumable() {
    return options().grad_accum(2).save_every(2).eval_every(1).output(folder.path()).resume(true);
  }

  /// Runs until `stop_after` steps were taken and returns the adapter.
  at::Tensor run(const TrainerOptions& chosen, int64_t stop_after = 1000, int64_t expected_start = 0) {
    auto model = adapted(0.2, dtype);
    if (alter) {
      at::NoGradGuard no_grad;
      alter(model);
    }
    Trainer trainer(model, counting(30, first_example), chosen);
    trainer.set_validation(counting(validation_examples, 30));
    trainer.set_fingerprint({{"alpha", alpha}});
    trainer.set_save([&](const std::filesystem::path& path) { save_adapter(*model, path); });
    trainer.set_callback([&](const StepMetrics& metrics) {
      if (metrics.step >= stop_after) {
        trainer.request_stop();
      }
    });
    EXPECT_EQ(trainer.restore(), expected_start);
    result = trainer.train();
    return flat(model);
  }

  /// Why a run does not go on from the checkpoint of step 2; nothing where it does.
  std::string refusal(const TrainerOptions& chosen) {
    try {
      run(chosen, 1000, 2);
    } catch (const FormatError& error) {
      return error.what();
    }
    return {};
  }

  TemporaryFolder folder;
  TrainingResult result;
  at::ScalarType dtype = at::kFloat;
  std::function<void(CausalLM)> alter;
  int64_t first_example = 0;
  int64_t validation_examples = 5;
  std::string alpha = "8";
};

TEST_F(ResumeTest, AResumedRunIsAnUninterruptedOneBitForBit) {
  const at::Tensor whole = run(options().grad_accum(2).eval_every(1));
  EXPECT_FALSE(result.interrupted);
  const TrainingResult uninterrupted = result;
  run(resumable(), 3);
  EXPECT_TRUE(result.interrupted);
  EXPECT_TRUE(std::filesystem::exists(folder / "checkpoint-3" / "adapter_model.safetensors"));
  const at::Tensor resumed = run(resumable(), 1000, 3);
  EXPECT_TRUE(at::equal(resumed, whole));
  EXPECT_EQ(result.best_eval_loss, uninterrupted.best_eval_loss);
  EXPECT_EQ(result.best_step, uninterrupted.best_step);
}

TEST_F(ResumeTest, ARunThatIsOutOfPatienceEndsThereHoweverItWasCut) {
  const auto impatient = [](TrainerOptions chosen) {
    // A rate far too high: the loss gets worse after the first steps.
    return chosen.lr(0.5).schedule(Schedule::kConstant).max_steps(60).early_stopping_patience(3);
  };
  const at::Tensor whole = run(impatient(options().grad_accum(2).eval_every(1)));
  const int64_t steps = result.steps;
  ASSERT_TRUE(result.stopped_early);
  // A stop asked for during the last step.
  EXPECT_TRUE(at::equal(run(impatient(resumable()), steps), whole));
  EXPECT_TRUE(result.stopped_early);
  EXPECT_FALSE(result.interrupted);
  // Ended after the checkpoint of that step.
  EXPECT_TRUE(at::equal(run(impatient(resumable()), 1000, steps), whole));
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.steps, steps);
}

TEST_F(ResumeTest, AFinishedRunTakesNoMoreSteps) {
  const at::Tensor whole = run(resumable());
  EXPECT_TRUE(at::equal(run(resumable(), 1000, 6), whole));
  EXPECT_EQ(result.steps, 6);
}

TEST_F(ResumeTest, AnUnfinishedCheckpointDoesNotCount) {
  run(resumable(), 2);
  std::filesystem::create_directory(folder / "checkpoint-5.partial");
  std::filesystem::create_directory(folder / "checkpoint-x");
  run(resumable(), 1000, 2);
}

TEST_F(ResumeTest, OnlyItsOwnOldCheckpointsAreRemoved) {
  for (const char* name : {"checkpoint-40-keep", "checkpoint-best", "checkpoint--1", "checkpoint-1.partial"}) {
    std::filesystem::create_directory(folder / name);
  }
  run(resumable());
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    names.push_back(entry.path().filename().string());
  }
  EXPECT_THAT(names, UnorderedElementsAre("checkpoint-6", "checkpoint-40-keep", "checkpoint-best", "checkpoint--1"));
}

TEST_F(ResumeTest, AnotherRunsCheckpointIsRefusedByTheOptionThatDiffers) {
  run(resumable(), 2);
  EXPECT_THAT(refusal(resumable().lr(2e-2)), HasSubstr("trainer_state.json: run.lr was 0.01 and is now 0.02:"));
  EXPECT_THAT(refusal(resumable().clip(0.5)), HasSubstr("run.clip was"));
  EXPECT_THAT(refusal(resumable().eval_every(2)), HasSubstr("run.eval_every was"));
  EXPECT_THAT(refusal(resumable().early_stopping_patience(3)), HasSubstr("run.early_stopping_patience was"));
  EXPECT_THAT(refusal(resumable().adamw(AdamWOptions().weight_decay(0.1))), HasSubstr("run.weight_decay was"));
  EXPECT_THAT(refusal(resumable().adamw(AdamWOptions().beta2(0.99))), HasSubstr("run.beta2 was"));
  dtype = at::kDouble;
  EXPECT_THAT(refusal(resumable()), HasSubstr("run.dtype was Float and is now Double"));
}

TEST_F(ResumeTest, AnotherRunsCheckpointIsRefusedByDataModelAndWhatTheCallerNames) {
  run(resumable(), 2);
  first_example = 7;
  EXPECT_THAT(refusal(resumable()), HasSubstr("run.data was 30 examples"));
  first_example = 0;
  validation_examples = 0;
  EXPECT_THAT(refusal(resumable()), HasSubstr("run.validation was 5 examples"));
  validation_examples = 5;
  alpha = "16";
  EXPECT_THAT(refusal(resumable()), HasSubstr("run.alpha was 8 and is now 16"));
  alpha = "8";
  alter = [](CausalLM model) { testing::decoder_of(model)->norm->weight[3] += 0.5; };
  EXPECT_THAT(refusal(resumable()), HasSubstr("run.weights was"));
  alter = [](CausalLM model) { model->options.rms_norm_eps(1e-3); };
  EXPECT_THAT(refusal(resumable()), HasSubstr("run.weights was"));
  alter = nullptr;
  EXPECT_EQ(refusal(resumable()), "");
}

TEST_F(ResumeTest, ADamagedCheckpointIsAFormatError) {
  run(resumable(), 2);
  write_file(folder / "checkpoint-2" / "trainer_state.json", "{\"step\": 2}");
  EXPECT_THROW(run(resumable(), 1000, 2), FormatError);
}

TEST_F(ResumeTest, AStateThatCannotBeIsAFormatError) {
  run(resumable(), 2);
  const std::filesystem::path path = folder / "checkpoint-2" / "trainer_state.json";
  const auto whole = nlohmann::ordered_json::parse(read_file(path));
  const auto with = [&](const char* field, const nlohmann::ordered_json& value) {
    auto changed = whole;
    changed[field] = value;
    write_file(path, changed.dump());
    return refusal(resumable());
  };
  EXPECT_THAT(with("step", -1), HasSubstr("trainer_state.json: step must be 0 to 6, not -1"));
  EXPECT_THAT(with("step", 7), HasSubstr("step must be 0 to 6, not 7"));
  EXPECT_THAT(with("step", 3), HasSubstr("step must be 2, not 3"));
  EXPECT_THAT(with("step", 18446744073709551615u), HasSubstr("step must be"));
  EXPECT_THAT(with("optimizer_steps", 0), HasSubstr("optimizer_steps must be 2, not 0"));
  EXPECT_THAT(with("best_step", 3), HasSubstr("best_step must be 0 to 2, not 3"));
  EXPECT_THAT(with("evaluations_without_gain", -5), HasSubstr("evaluations_without_gain must be"));
  EXPECT_THAT(with("best_eval_loss", nullptr), HasSubstr("trainer_state.safetensors: best_values"));
  EXPECT_EQ(with("step", 2), "");
}

TEST(Trainer, KeepsTheBestValidationsParametersAndStopsEarly) {
  auto model = adapted();
  // A rate far too high: the loss gets worse after the first steps.
  Trainer trainer(
      model,
      counting(20),
      options().lr(0.5).schedule(Schedule::kConstant).max_steps(60).eval_every(1).early_stopping_patience(5));
  trainer.set_validation(counting(5, 20));
  std::vector<double> losses;
  trainer.set_callback([&](const StepMetrics& metrics) { losses.push_back(metrics.eval_loss.value()); });
  const TrainingResult result = trainer.train();
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.steps, result.best_step + 5);
  EXPECT_DOUBLE_EQ(*result.best_eval_loss, *std::min_element(losses.begin(), losses.end()));
  EXPECT_DOUBLE_EQ(evaluate_perplexity(model, counting(5, 20).loss, 4), *result.best_eval_loss);
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
    EXPECT_THAT(error.what_without_backtrace(), HasSubstr("unmerge the adapters before training: that of model.layers.0"));
  }
}

/// Writes down when it is called.
class Recorder : public TrainingHook {
 public:
  Recorder(std::string name, std::vector<std::string>& calls) : name_(std::move(name)), calls_(calls) {}

  std::string name() const override {
    return name_;
  }
  void begin(const StepContext& context) override {
    add("begin", context);
  }
  void before_forward(const StepContext& context) override {
    add("before forward", context);
  }
  at::Tensor extra_loss(const StepContext& context) override {
    add("loss", context);
    return extra ? extra() : at::Tensor();
  }
  void after_backward(const StepContext& context) override {
    add("after backward", context);
    gradients = context.parameters.gradients().clone();
  }
  void after_step(const StepContext& context) override {
    add("after step", context);
  }

  std::function<at::Tensor()> extra;
  at::Tensor gradients; ///< of the last step, before clipping

 private:
  void add(const std::string& call, const StepContext& context) {
    calls_.push_back(name_ + " " + call + " " + std::to_string(context.step));
  }

  std::string name_;
  std::vector<std::string>& calls_;
};

TEST(Trainer, CallsHooksInTheOrderOfAStep) {
  std::vector<std::string> calls;
  auto model = adapted();
  Trainer trainer(model, counting(16), options().max_steps(2).grad_accum(2));
  trainer.add_hook(std::make_shared<Recorder>("a", calls));
  trainer.add_hook(std::make_shared<Recorder>("b", calls));
  EXPECT_THROW(trainer.add_hook(std::make_shared<Recorder>("a", calls)), c10::ValueError);
  trainer.train();
  std::vector<std::string> expected{"a begin 0", "b begin 0"};
  for (const std::string step : {"0", "1"}) {
    for (const char* call : {"before forward", "loss", "loss", "after backward", "after step"}) {
      expected.push_back(std::string("a ") + call + " " + step);
      expected.push_back(std::string("b ") + call + " " + step);
    }
  }
  EXPECT_EQ(calls, expected);
  EXPECT_THROW(trainer.add_hook(std::make_shared<Recorder>("c", calls)), c10::ValueError) << "the run has begun";
}

TEST(Trainer, AHooksLossCountsOnceHoweverManyBatchesAStepTakes) {
  std::vector<std::string> calls;
  const auto gradient = [&](double weight, int64_t grad_accum) {
    auto model = adapted(0.0, at::kDouble);
    auto chosen = options(8 / grad_accum).max_steps(1).grad_accum(grad_accum);
    chosen.batches().shuffle(false);
    Trainer trainer(model, counting(8), chosen);
    auto hook = std::make_shared<Recorder>("penalty", calls);
    hook->extra = [model, weight] {
      at::Tensor sum = at::zeros({}, at::kDouble);
      for (const at::Tensor& each : adapter_parameters(*model)) {
        sum = sum + weight * each.square().sum();
      }
      return sum;
    };
    trainer.add_hook(hook);
    const at::Tensor before = trainer.parameters().values().clone();
    StepMetrics metrics;
    trainer.set_callback([&](const StepMetrics& each) { metrics = each; });
    trainer.train();
    EXPECT_NEAR(metrics.extra_loss, weight * before.square().sum().item<double>(), 1e-10);
    return std::make_pair(hook->gradients, before);
  };
  const auto [without, values] = gradient(0.0, 1);
  for (const int64_t grad_accum : {1, 2, 4}) {
    EXPECT_LT(relative_error(gradient(0.5, grad_accum).first, without + values), 1e-10) << grad_accum;
  }
}

TEST(Trainer, AHookThatMakesTheLossInfiniteHarmsNoParameter) {
  std::vector<std::string> calls;
  auto model = adapted();
  Trainer trainer(model, counting(4), options());
  auto hook = std::make_shared<Recorder>("infinite", calls);
  hook->extra = [] { return at::full({}, std::numeric_limits<double>::infinity()); };
  trainer.add_hook(hook);
  const at::Tensor before = trainer.parameters().values().clone();
  EXPECT_THROW(trainer.train(), std::runtime_error);
  EXPECT_TRUE(at::equal(trainer.parameters().values(), before));
}

TEST_F(ResumeTest, ARunWithOtherRatesForBIsAnotherRun) {
  const at::Tensor whole = run(options().grad_accum(2).eval_every(1).groups(lora_plus(4.0)));
  run(resumable().groups(lora_plus(4.0)), 3);
  EXPECT_THAT([&] { run(resumable(), 1000, 3); }, ::testing::ThrowsMessage<FormatError>(HasSubstr("run.groups was")));
  EXPECT_TRUE(at::equal(run(resumable().groups(lora_plus(4.0)), 1000, 3), whole));
}

TEST_F(ResumeTest, ARatioOfOneHasTheBitsOfPlainAdamW) {
  EXPECT_TRUE(at::equal(run(options().groups(lora_plus(1.0))), run(options())));
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


}  // namespace
}  // namespace rora
