#include "resumed_run.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/adalora.h>
#include <rora/adapters/peft_folder.h>
#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>
#include <rora/training/rank_allocator.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::relative_error;
using testing::TemporaryFolder;
using testing::test_data;
using ::testing::ThrowsMessage;

AdaLoraOptions ranks() {
  return AdaLoraOptions().init_r(4).target_r(2).alpha(6.0).tinit(2).tfinal(3).delta_t(2);
}

/// A training of a tiny LLaMA by AdaLoRA.
struct RankTraining {
  explicit RankTraining(const TrainerOptions& options, const AdaLoraOptions& ranks = rora::ranks())
      : model(testing::tiny_llama()) {
    at::manual_seed(31);
    attach_adapters(*model, AdapterOptions().kind(adalora(ranks)));
    trainer.emplace(model, testing::counting(16), options);
    hook = std::make_shared<RankAllocator>(ranks);
    trainer->add_hook(hook);
    trainer->set_save([this](const std::filesystem::path& path) { save_adapter(*model, path); });
  }

  std::vector<std::shared_ptr<AdaLoraAdapter>> adapters() const {
    std::vector<std::shared_ptr<AdaLoraAdapter>> found;
    for (const auto& module : model->modules()) {
      if (auto adapter = std::dynamic_pointer_cast<AdaLoraAdapter>(module)) {
        found.push_back(adapter);
      }
    }
    return found;
  }

  int64_t numbers_left() const {
    int64_t left = 0;
    for (const auto& adapter : adapters()) {
      left += adapter->gate.ne(0).sum().item<int64_t>();
    }
    return left;
  }

  DecoderForCausalLM model;
  std::shared_ptr<RankAllocator> hook;
  std::optional<Trainer> trainer;
};

TEST(RankAllocator, TrainsAsPeftDoesStepByStep) {
  const SafetensorsFile trace(test_data("adalora/trace.safetensors"));
  const int64_t steps = trace.shape("losses")[0];
  const AdaLoraOptions options = ranks().beta1(0.8).beta2(0.9).orth_reg_weight(0.25);
  CausalLM model = load_model(test_data("golden/model"), at::kDouble);
  attach_adapters(
      *model,
      AdapterOptions()
          .kind(adalora(options))
          .target_modules(std::vector<std::string>{"q_proj", "v_proj", "down_proj"}));
  std::vector<at::Tensor> of_modules;
  {
    at::NoGradGuard no_grad;
    for (auto& [name, tensor] : named_adapter_parameters(*model)) {
      tensor.copy_(trace.tensor("initial." + name));
      if (name.ends_with("lora_E")) {
        of_modules.push_back(tensor);
      }
    }
  }
  const at::Tensor ids = trace.tensor("input_ids").flatten(0, 1);
  std::vector<Example> examples(static_cast<size_t>(ids.size(0)));
  for (int64_t row = 0; row < ids.size(0); ++row) {
    const auto* begin = ids[row].const_data_ptr<int64_t>();
    examples[static_cast<size_t>(row)].input_ids.assign(begin, begin + ids.size(1));
    examples[static_cast<size_t>(row)].labels.assign(begin, begin + ids.size(1));
  }
  Trainer trainer(
      model, examples,
      TrainerOptions()
          .lr(1e-2)
          .clip(0.0)
          .warmup_steps(0)
          .schedule(Schedule::kConstant)
          .max_steps(steps)
          .batches(BatchOptions().batch_size(ids.size(0) / steps).shuffle(false)));
  trainer.add_hook(std::make_shared<RankAllocator>(options));
  trainer.set_callback([&](const StepMetrics& metrics) {
    const int64_t step = metrics.step - 1;
    EXPECT_NEAR(metrics.loss + metrics.extra_loss, trace.tensor("losses")[step].item<double>(), 1e-6) << step;
    std::vector<at::Tensor> kept;
    for (const at::Tensor& each : of_modules) {
      kept.push_back(each.detach().ne(0).flatten());
    }
    EXPECT_TRUE(at::equal(at::stack(kept), trace.tensor("kept")[step])) << step;
  });
  trainer.train();
  for (const auto& [name, tensor] : named_adapter_parameters(*model)) {
    EXPECT_LT((tensor.detach() - trace.tensor("final." + name)).abs().max().item<double>(), 1e-5) << name;
  }
}

TEST(RankAllocator, KeepsToItsBudget) {
  RankTraining run(testing::options().max_steps(14));
  const auto schedule = ranks().for_run(14);
  const auto modules = std::ssize(run.adapters());
  run.trainer->set_callback([&](const StepMetrics& metrics) {
    const bool given_out = metrics.step > 2 && (metrics.step % 2 == 0 || metrics.step >= 11);
    EXPECT_EQ(run.numbers_left(), given_out ? schedule.budget(metrics.step, modules) : 4 * modules) << metrics.step;
  });
  run.trainer->train();
  EXPECT_EQ(run.numbers_left(), 2 * modules);
  EXPECT_EQ(run.hook->mask().sum().item<int64_t>(), 2 * modules);
}

TEST(RankAllocator, NothingIsTakenWhereTheTargetIsWhatItBeganWith) {
  RankTraining run(testing::options().max_steps(8), ranks().target_r(4));
  run.trainer->train();
  EXPECT_EQ(run.numbers_left(), 4 * std::ssize(run.adapters()));
}

TEST(RankAllocator, EveryRankMayBeTaken) {
  RankTraining run(testing::options().max_steps(8), ranks().target_r(0));
  run.trainer->train();
  EXPECT_EQ(run.numbers_left(), 0);
  const TemporaryFolder folder;
  save_adapter(*run.model, folder.path());
  const SafetensorsFile file(folder / "adapter_model.safetensors");
  EXPECT_EQ(file.names().size(), 3 * run.adapters().size());
  for (const std::string& name : file.names()) {
    EXPECT_EQ(file.tensor(name).numel(), 0) << name;
  }
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
}

TEST(RankAllocator, ItsLossIsTheDistanceFromOrthonormalRowsWithAGradientAtNone) {
  RankTraining run(testing::options().max_steps(1), ranks().tinit(0).tfinal(0).orth_reg_weight(0.7));
  double expected = 0.0;
  for (const auto& adapter : run.adapters()) {
    at::NoGradGuard no_grad;
    // Orthonormal to the bit: the norm has no derivative there.
    adapter->lora_A.zero_().narrow(1, 0, 4).copy_(at::eye(4));
    const at::Tensor product = adapter->lora_B.t().mm(adapter->lora_B);
    expected += (product - at::eye(4)).square().sum().sqrt().item<double>();
  }
  expected *= 0.7 / static_cast<double>(2 * run.adapters().size());
  run.trainer->set_callback([&](const StepMetrics& metrics) {
    EXPECT_NEAR(metrics.extra_loss, expected, 1e-5);
    EXPECT_TRUE(std::isfinite(metrics.grad_norm));
  });
  run.trainer->train();
  EXPECT_TRUE(at::isfinite(run.trainer->parameters().values()).all().item<bool>());
}

TEST(RankAllocator, LearnsASmallTaskAndWhatItSavesLoads) {
  const TemporaryFolder folder;
  RankTraining run(testing::options(16).max_steps(60).lr(2e-2), AdaLoraOptions().init_r(4).target_r(2).alpha(8.0));
  std::vector<double> losses;
  run.trainer->set_callback([&](const StepMetrics& metrics) { losses.push_back(metrics.loss); });
  run.trainer->train();
  EXPECT_LT(losses.back(), 0.8 * losses.front());
  save_adapter(*run.model, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  run.model->eval();
  const at::Tensor ids = at::arange(12, at::kLong).view({1, 12});
  at::NoGradGuard no_grad;
  EXPECT_LT(relative_error(loaded->forward({ids, {}, {}}), run.model->forward({ids, {}, {}})), 1e-6);
}

TEST(RankAllocator, AResumedRunIsTheUninterruptedOneBitForBit) {
  const auto refuse_another = [](const TrainerOptions& resumable) {
    RankTraining other(resumable, ranks().delta_t(1));
    EXPECT_THROW(other.trainer->restore(), FormatError) << "ranks given out otherwise are another run";
  };
  for (const int64_t stop : {1, 5, 12}) { // before, between and after the choices
    testing::expect_the_same_bits_once_resumed<RankTraining>(
        testing::options().max_steps(14), stop, refuse_another,
        [&](const RankTraining& resumed, const RankTraining& whole) {
          EXPECT_TRUE(at::equal(resumed.hook->mask(), whole.hook->mask())) << stop;
        });
  }
}

TEST(RankAllocator, NoValuesCountAsTheBestBeforeTheLastRanksAreGivenOut) {
  RankTraining run(testing::options().max_steps(14).eval_every(1).lr(0.0));
  run.trainer->set_validation(testing::counting(4));
  const TrainingResult result = run.trainer->train();
  EXPECT_GE(result.best_step, 11);
  EXPECT_EQ(run.hook->mask().sum().item<int64_t>(), 2 * std::ssize(run.adapters()));
}

TEST(RankAllocator, SaysItsStepsToTheFolder) {
  const TemporaryFolder folder;
  RankTraining run(testing::options().max_steps(14), AdaLoraOptions().init_r(3).target_r(2));
  run.trainer->train();
  save_adapter(*run.model, folder.path());
  const AdapterOptions read = read_adapter_config(folder.path());
  auto again = testing::tiny_llama();
  load_adapter(*again, folder.path());
  for (const auto& module : again->modules()) {
    if (const auto* adapter = module->as<AdaLoraAdapter>()) {
      EXPECT_EQ(adapter->options.total_step(), 14);
      EXPECT_EQ(adapter->options.tinit(), 2);
      EXPECT_EQ(adapter->options.tfinal(), 7);
    }
  }
}

TEST(RankAllocator, NeedsAdaptersOfAllTheirRanksAndStepsToTakeThemIn) {
  const auto begin = [](CausalLM model, const AdaLoraOptions& ranks) {
    Trainer trainer(model, testing::counting(16), testing::options().max_steps(6));
    trainer.add_hook(std::make_shared<RankAllocator>(ranks));
    trainer.train();
  };
  EXPECT_THAT(
      [&] { begin(testing::adapted(), ranks()); },
      ThrowsMessage<c10::ValueError>(HasSubstr("no adapter of AdaLoRA is trained")));
  const TemporaryFolder folder;
  RankTraining run(testing::options().max_steps(14));
  run.trainer->train();
  save_adapter(*run.model, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  EXPECT_THAT(
      [&] { begin(loaded, ranks()); },
      ThrowsMessage<c10::ValueError>(HasSubstr("AdaLoRA gives out ranks of adapters that have all 4 of them")));
  auto unlike = testing::tiny_llama();
  attach_adapters(*unlike, AdapterOptions().kind(adalora(ranks().beta1(0.5))));
  EXPECT_THAT(
      [&] { begin(unlike, ranks()); }, ThrowsMessage<c10::ValueError>(HasSubstr("by other options than those")));
  auto longer = testing::tiny_llama();
  attach_adapters(*longer, AdapterOptions().kind(adalora(ranks())));
  EXPECT_THAT(
      [&] { begin(longer, ranks().total_step(100)); },
      ThrowsMessage<c10::ValueError>(HasSubstr("total_step, 100, is beyond the run's 6 steps")));
  RankTraining short_run(testing::options().max_steps(5));
  EXPECT_THAT(
      [&] { short_run.trainer->train(); },
      ThrowsMessage<c10::ValueError>(HasSubstr("tinit 2 and tfinal 3 leave none of 5 steps")));
}

} // namespace
} // namespace rora
