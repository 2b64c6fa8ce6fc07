#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rora {
namespace {

using rora::testing::adapted;
using rora::testing::counting;
using rora::testing::flat;
using rora::testing::options;
using rora::testing::TemporaryFolder;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

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

TEST_F(ResumeTest, AnUnfinishedCheckpointDoesNotCountAndIsRemovedWhenTheRunGoesOn) {
  run(resumable(), 2);
  std::filesystem::create_directory(folder / "checkpoint-5.partial");
  std::filesystem::create_directory(folder / "checkpoint-x");
  run(resumable(), 3, 2);
  EXPECT_FALSE(std::filesystem::exists(folder / "checkpoint-5.partial"));
  EXPECT_TRUE(std::filesystem::exists(folder / "checkpoint-x"));
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

TEST_F(ResumeTest, ARunWithOtherRatesForBIsAnotherRun) {
  const at::Tensor whole = run(options().grad_accum(2).eval_every(1).groups(lora_plus(4.0)));
  run(resumable().groups(lora_plus(4.0)), 3);
  EXPECT_THAT([&] { run(resumable(), 1000, 3); }, ::testing::ThrowsMessage<FormatError>(HasSubstr("run.groups was")));
  EXPECT_TRUE(at::equal(run(resumable().groups(lora_plus(4.0)), 1000, 3), whole));
}

TEST_F(ResumeTest, ARatioOfOneHasTheBitsOfPlainAdamW) {
  EXPECT_TRUE(at::equal(run(options().groups(lora_plus(1.0))), run(options())));
}

} // namespace
} // namespace rora
