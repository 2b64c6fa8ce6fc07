#include "resumed_run.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/peft_folder.h>
#include <rora/adapters/sora.h>
#include <rora/error.h>
#include <rora/training/gate_threshold.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::relative_error;
using testing::TemporaryFolder;
using ::testing::ThrowsMessage;

SoraOptions gates() {
  return SoraOptions().rank(4).alpha(8.0).gate_loss_weight(0.5).threshold(2e-2);
}

/// A training of a tiny LLaMA by SoRA.
struct GateTraining {
  explicit GateTraining(const TrainerOptions& options, const SoraOptions& gates = rora::gates())
      : model(testing::tiny_llama()) {
    at::manual_seed(31);
    attach_adapters(*model, AdapterOptions().kind(sora(gates)));
    trainer.emplace(model, testing::counting(16), options);
    trainer->add_hook(std::make_shared<GateThreshold>(gates));
    trainer->set_save([this](const std::filesystem::path& path) { save_adapter(*model, path); });
  }

  /// All gates together.
  at::Tensor values() const {
    std::vector<at::Tensor> all;
    for (const auto& module : model->modules()) {
      if (const auto* adapter = module->as<SoraAdapter>()) {
        all.push_back(adapter->gate.detach().flatten());
      }
    }
    return at::cat(all);
  }

  DecoderForCausalLM model;
  std::optional<Trainer> trainer;
};

TEST(GateThreshold, MovesEachGateTowardsZeroByTheThresholdAndNotBeyond) {
  GateTraining run(testing::options().max_steps(1).lr(0.0), gates().threshold(0.3));
  const at::Tensor before = run.values().clone();
  run.trainer->train();
  const at::Tensor expected = before.sign() * (before.abs() - 0.3).clamp_min(0.0);
  EXPECT_GT(expected.eq(0).sum().item<int64_t>(), 0);
  EXPECT_LT((run.values() - expected).abs().max().item<double>(), 1e-6);
}

TEST(GateThreshold, ItsLossIsTheWeightedMeanOfTheGatesWithoutTheirSigns) {
  GateTraining run(testing::options().max_steps(1));
  const double expected = 0.5 * run.values().abs().mean().item<double>();
  run.trainer->set_callback([&](const StepMetrics& metrics) { EXPECT_NEAR(metrics.extra_loss, expected, 1e-6); });
  run.trainer->train();
}

TEST(GateThreshold, WithoutLossAndThresholdNothingIsDone) {
  const SoraOptions none = gates().gate_loss_weight(0.0).threshold(0.0);
  GateTraining run(testing::options(), none);
  run.trainer->train();
  auto model = testing::tiny_llama();
  at::manual_seed(31);
  attach_adapters(*model, AdapterOptions().kind(sora(none)));
  Trainer plain(model, testing::counting(16), testing::options());
  plain.train();
  EXPECT_TRUE(at::equal(plain.parameters().values(), run.trainer->parameters().values()));
}

TEST(GateThreshold, LearnsASmallTaskWithFewerRanksAndWhatItSavesLoads) {
  const TemporaryFolder folder;
  GateTraining run(testing::options(16).max_steps(60).lr(2e-2));
  std::vector<double> losses;
  run.trainer->set_callback([&](const StepMetrics& metrics) { losses.push_back(metrics.loss); });
  run.trainer->train();
  EXPECT_LT(losses.back(), 0.8 * losses.front());
  const int64_t shut = run.values().eq(0).sum().item<int64_t>();
  EXPECT_GT(shut, 0);
  EXPECT_LT(shut, run.values().numel());
  save_adapter(*run.model, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  run.model->eval();
  const at::Tensor ids = at::arange(12, at::kLong).view({1, 12});
  at::NoGradGuard no_grad;
  EXPECT_LT(relative_error(loaded->forward({ids, {}, {}}), run.model->forward({ids, {}, {}})), 1e-5);
}

TEST(GateThreshold, AResumedRunIsTheUninterruptedOneBitForBit) {
  const auto refuse_another = [](const TrainerOptions& resumable) {
    GateTraining other(resumable, gates().threshold(1e-2));
    EXPECT_THROW(other.trainer->restore(), FormatError) << "another threshold is another run";
  };
  testing::expect_the_same_bits_once_resumed<GateTraining>(
      testing::options().max_steps(10), 4, refuse_another, [](const GateTraining&, const GateTraining&) {});
}

TEST(GateThreshold, NeedsAnAdapterOfSora) {
  Trainer trainer(testing::adapted(), testing::counting(16), testing::options());
  trainer.add_hook(std::make_shared<GateThreshold>(gates()));
  EXPECT_THAT([&] { trainer.train(); }, ThrowsMessage<c10::ValueError>(HasSubstr("no adapter of SoRA is trained")));
}

} // namespace
} // namespace rora
