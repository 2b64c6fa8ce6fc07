// What a checkpoint must be to be gone on from, and what a run does that cannot go on.

#include "checkpoint/atomic_file.h"
#include "checkpoint/digest.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <limits>

namespace rora {
namespace {

using rora::testing::adapted;
using rora::testing::counting;
using rora::testing::flat;
using rora::testing::options;
using rora::testing::TemporaryFolder;
using rora::testing::tiny_llama;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Asks for a stop after a step and ahead of what follows on it.
class StopAfter : public TrainingHook {
 public:
  std::string name() const override {
    return "stop_after";
  }
  void after_step(const StepContext& context) override {
    if (context.step + 1 == step) {
      trainer->request_stop();
    }
  }

  int64_t step = 0;
  Trainer* trainer = nullptr;
};

class CheckpointTest : public ::testing::Test {
 protected:
  TrainerOptions resumable() const {
    return options().save_every(2).eval_every(2).output(folder.path()).resume(true);
  }

  static std::unique_ptr<Trainer> trainer_of(CausalLM model, const TrainerOptions& chosen) {
    auto trainer = std::make_unique<Trainer>(model, counting(30), chosen);
    trainer->set_validation(counting(5, 30));
    return trainer;
  }

  /// Takes two of six steps and leaves their checkpoint.
  void take_two_steps(CausalLM model = adapted()) const {
    auto trainer = trainer_of(model, resumable());
    trainer->set_callback([&](const StepMetrics& metrics) {
      if (metrics.step == 2) {
        trainer->request_stop();
      }
    });
    ASSERT_TRUE(trainer->train().interrupted);
  }

  /// Why the checkpoint is not gone on from; nothing where it is.
  std::string refusal() const {
    try {
      trainer_of(adapted(), resumable())->restore();
    } catch (const FormatError& error) {
      return error.what();
    }
    return {};
  }

  std::filesystem::path state() const {
    return folder / "checkpoint-2" / "trainer_state.json";
  }

  /// Writes a state with the digest that it must have.
  void write_state(nlohmann::ordered_json json) const {
    json.erase("digest");
    detail::Digest digest;
    digest.add(json.dump());
    json["digest"] = digest.text();
    write_file(state(), json.dump(2));
  }

  TemporaryFolder folder;
};

TEST_F(CheckpointTest, AStateThatCannotBeIsAFormatError) {
  take_two_steps();
  const auto whole = nlohmann::ordered_json::parse(read_file(state()));
  const auto with = [&](const char* field, const nlohmann::ordered_json& value) {
    auto changed = whole;
    changed[field] = value;
    write_state(changed);
    return refusal();
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

TEST_F(CheckpointTest, NoBitOfAFileMayChange) {
  take_two_steps();
  for (const char* name : {"trainer_state.json", "trainer_state.safetensors"}) {
    const std::filesystem::path path = folder / "checkpoint-2" / name;
    const std::string whole = read_file(path);
    for (size_t bit = 5; bit < 8 * whole.size(); bit += 8 * whole.size() / 97) {
      std::string flipped = whole;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
      write_file(path, flipped);
      EXPECT_THAT(refusal(), HasSubstr(name)) << "bit " << bit;
    }
    write_file(path, whole);
  }
  EXPECT_EQ(refusal(), "");
}

TEST_F(CheckpointTest, AFileThatIsGoneIsAnError) {
  take_two_steps();
  std::filesystem::remove(folder / "checkpoint-2" / "trainer_state.safetensors");
  EXPECT_THAT([&] { refusal(); }, ThrowsMessage<FileError>(HasSubstr("trainer_state.safetensors: cannot open")));
}

TEST_F(CheckpointTest, MomentsThatAreNotFiniteAreAFormatError) {
  take_two_steps();
  const std::filesystem::path path = folder / "checkpoint-2" / "trainer_state.safetensors";
  NamedTensors tensors;
  {
    const SafetensorsFile file(path);
    for (const std::string& name : file.names()) {
      tensors.emplace_back(name, file.tensor(name).clone());
    }
  }
  for (auto& [name, tensor] : tensors) {
    const at::Tensor last = tensor.flatten()[-1];
    const at::Tensor before = last.clone();
    last.fill_(kNan);
    save_safetensors(path, tensors);
    auto json = nlohmann::ordered_json::parse(read_file(state()));
    json["files"]["trainer_state.safetensors"] = file_digest(path);
    write_state(json);
    EXPECT_THAT(refusal(), HasSubstr(name + " holds NaN or infinite values"));
    last.copy_(before);
  }
}

TEST_F(CheckpointTest, EveryFrozenWeightIsInTheFingerprint) {
  take_two_steps();
  auto model = adapted();
  {
    at::NoGradGuard no_grad;
    model->head_weight().flatten()[-1] += 0.5;
  }
  EXPECT_THAT(
      [&] { trainer_of(model, resumable())->restore(); }, ThrowsMessage<FormatError>(HasSubstr("run.weights was")));
}

TEST_F(CheckpointTest, TokensWhoseRowsAreTrainedAreInTheFingerprint) {
  const auto with_rows_of = [](std::vector<int64_t> tokens) {
    auto model = tiny_llama();
    at::manual_seed(31);
    attach_adapters(
        *model,
        AdapterOptions().low_rank(LowRankOptions().rank(4)).trainable_token_indices({{"embed_tokens", tokens}}));
    return model;
  };
  take_two_steps(with_rows_of({5, 7}));
  EXPECT_THAT(
      [&] {
        trainer_of(with_rows_of({7, 5}), resumable())->restore();
      },
      ThrowsMessage<FormatError>(HasSubstr("run.weights was")));
  EXPECT_EQ(trainer_of(with_rows_of({5, 7}), resumable())->restore(), 2);
}

TEST_F(CheckpointTest, BfloatSixteenGoesOnWithAsManyThreadsAsItBegan) {
  const auto run = [&] {
    auto trainer = trainer_of(adapted(0.0, at::kBFloat16), resumable().max_steps(4));
    trainer->set_callback([&](const StepMetrics& metrics) {
      if (metrics.step == 2) {
        trainer->request_stop();
      }
    });
    trainer->train();
  };
  run();
  const int threads = at::get_num_threads();
  at::set_num_threads(threads + 1);
  EXPECT_THAT(run, ThrowsMessage<FormatError>(HasSubstr("run.threads was " + std::to_string(threads))));
  at::set_num_threads(threads);
  run();
}

TEST_F(CheckpointTest, AFolderThatCannotBeListedIsNotAnEmptyOne) {
  write_file(folder / "file", "x");
  EXPECT_THAT(
      [&] { trainer_of(adapted(), resumable().output(folder / "file"))->restore(); },
      ThrowsMessage<FileError>(HasSubstr("file: cannot be listed")));
}

TEST_F(CheckpointTest, AStepThatIsNotFiniteLeavesACheckpointThatGoesOnAtAnotherRate) {
  auto model = adapted();
  auto* head = model->head_weight().data_ptr<float>();
  const float whole = head[0];
  const auto chosen = resumable().save_every(0);
  auto trainer = trainer_of(model, chosen);
  trainer->set_callback([&](const StepMetrics& metrics) { head[0] = metrics.step == 3 ? kNan : whole; });
  EXPECT_THAT(
      [&] { trainer->train(); },
      ThrowsMessage<NotFiniteError>(
          AllOf(HasSubstr("at step 4"), HasSubstr("the checkpoint of step 3 may be resumed"))));
  trainer.reset();
  EXPECT_EQ(trainer_of(adapted(), chosen)->restore(), 3);
  EXPECT_THAT(
      [&] { trainer_of(adapted(), TrainerOptions(chosen).clip(0.5))->restore(); },
      ThrowsMessage<FormatError>(HasSubstr("run.clip was")));
  auto resumed = trainer_of(adapted(), TrainerOptions(chosen).lr(1e-3).save_every(5));
  EXPECT_EQ(resumed->train().steps, 6);
  // What it saved is of its own rate.
  resumed.reset();
  EXPECT_THAT(
      [&] { trainer_of(adapted(), chosen)->restore(); }, ThrowsMessage<FormatError>(HasSubstr("run.lr was 0.001")));
}

/// Spoils the head between the update of a step and its validation.
class SpoilHead : public TrainingHook {
 public:
  std::string name() const override {
    return "spoil_head";
  }
  void after_step(const StepContext& context) override {
    if (context.step == 2) {
      CausalLM(context.model)->head_weight().data_ptr<float>()[0] = kNan;
    }
  }
};

TEST_F(CheckpointTest, AValidationThatIsNotFiniteEndsTheRunWithACheckpoint) {
  Trainer trainer(adapted(), counting(30), resumable().eval_every(1));
  trainer.set_validation(counting(5, 30));
  trainer.add_hook(std::make_shared<SpoilHead>());
  EXPECT_THAT(
      [&] { trainer.train(); },
      ThrowsMessage<NotFiniteError>(
          AllOf(HasSubstr("validation loss is not finite after step 3"), HasSubstr("the checkpoint of step 3"))));
  EXPECT_EQ(trainer.step(), 3);
}

TEST_F(CheckpointTest, WeightsThatAreNotFiniteAreNeitherSavedNorDone) {
  for (const int64_t save_every : {0, 6}) {
    auto model = adapted();
    Trainer trainer(model, counting(30), options().save_every(save_every).output(folder.path()));
    trainer.set_callback([&](const StepMetrics& metrics) {
      if (metrics.step == 6) {
        at::NoGradGuard no_grad;
        at::Tensor(trainer.parameters().values())[0] = kNan;
      }
    });
    EXPECT_THAT([&] { trainer.train(); }, ThrowsMessage<std::runtime_error>(HasSubstr("not finite")));
    EXPECT_FALSE(std::filesystem::exists(folder / "checkpoint-6"));
  }
}

TEST_F(CheckpointTest, ARunWithoutAnyGradientIsAnErrorAndNoSuccess) {
  auto model = adapted();
  {
    at::NoGradGuard no_grad;
    for (const auto& item : model->named_parameters()) {
      if (item.key().ends_with("lora_A") || item.key().ends_with("lora_A.weight")) {
        item.value().zero_();
      }
    }
  }
  Trainer trainer(model, counting(30), options().max_steps(20));
  EXPECT_THAT(
      [&] { trainer.train(); },
      ThrowsMessage<std::runtime_error>(HasSubstr("the gradient was zero in all of the first 10 steps")));
}

TEST_F(CheckpointTest, ExamplesWithoutALabelAreRefused) {
  auto examples = counting(4);
  for (Example& example : examples) {
    std::fill(example.labels.begin() + 1, example.labels.end(), kIgnoreIndex); // nothing predicts the first
  }
  EXPECT_THROW(Trainer(adapted(), examples, options()), c10::ValueError);
  EXPECT_THROW(Trainer(adapted(), counting(4), options()).set_validation(examples), c10::ValueError);
}

TEST_F(CheckpointTest, AStopDuringAValidationDoesNotWaitForItAndLosesNothing) {
  std::vector<StepMetrics> metrics;
  const auto run = [&](TrainerOptions chosen, int64_t stop_after, at::Tensor& trained) {
    auto model = adapted();
    auto trainer = trainer_of(model, chosen.eval_every(3).save_every(0));
    auto hook = std::make_shared<StopAfter>();
    hook->step = stop_after;
    hook->trainer = trainer.get();
    trainer->add_hook(hook);
    trainer->set_callback([&](const StepMetrics& each) { metrics.push_back(each); });
    const TrainingResult result = trainer->train();
    trained = flat(model);
    return result;
  };
  at::Tensor whole, cut;
  const TrainingResult uninterrupted = run(options(), 0, whole);
  for (const int64_t step : {3, 6}) {
    const auto chosen = resumable().output(folder / std::to_string(step));
    const TrainingResult first = run(chosen, step, cut);
    EXPECT_TRUE(first.interrupted);
    EXPECT_EQ(first.steps, step);
    EXPECT_FALSE(metrics.back().eval_loss.has_value());
    metrics.clear();
    const TrainingResult rest = run(chosen, 0, cut);
    EXPECT_EQ(metrics.front().step, step);
    EXPECT_EQ(metrics.front().tokens, 0);
    EXPECT_TRUE(metrics.front().eval_loss.has_value());
    EXPECT_EQ(rest.best_eval_loss, uninterrupted.best_eval_loss);
    EXPECT_EQ(rest.best_step, uninterrupted.best_step);
    EXPECT_TRUE(at::equal(cut, whole));
  }
}

TEST_F(CheckpointTest, OneProcessWritesToAFolder) {
  const int other = ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::flock(other, LOCK_EX | LOCK_NB), 0);
  EXPECT_THAT(
      [&] { trainer_of(adapted(), resumable())->train(); }, ThrowsMessage<FileError>(HasSubstr("another process")));
  ::close(other);
  EXPECT_EQ(trainer_of(adapted(), resumable())->train().steps, 6);
}

TEST_F(CheckpointTest, WhatCannotBeWrittenIsTriedAgainWhereTheCallerSaysSo) {
  for (const int tries : {0, 1, 3}) {
    auto trainer = trainer_of(adapted(), resumable().output(folder / std::to_string(tries)));
    int failures = 2;
    trainer->set_save([&](const std::filesystem::path& path) {
      if (failures-- > 0) {
        throw FileError(path, "cannot write: No space left on device");
      }
    });
    int asked = 0;
    trainer->set_save_error([&](const FileError&) { return ++asked <= tries; });
    if (tries < 2) {
      EXPECT_THROW(trainer->train(), FileError);
      EXPECT_EQ(asked, tries + 1);
    } else {
      EXPECT_EQ(trainer->train().steps, 6);
      EXPECT_EQ(asked, 2);
    }
  }
}

TEST_F(CheckpointTest, AFolderThatTakesAnothersPlaceIsWhole) {
  for (const char* name : {"old", "new"}) {
    std::filesystem::create_directory(folder / name);
    write_file(folder / name / name, name);
  }
  detail::replace_folder(folder / "new", folder / "old");
  EXPECT_TRUE(std::filesystem::exists(folder / "old" / "new"));
  EXPECT_FALSE(std::filesystem::exists(folder / "old" / "old"));
  EXPECT_FALSE(std::filesystem::exists(folder / "new"));
  detail::replace_folder(folder / "old", folder / "third");
  EXPECT_TRUE(std::filesystem::exists(folder / "third" / "new"));
}

} // namespace
} // namespace rora
