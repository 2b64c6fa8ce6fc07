#include "resumed_run.h"
#include "support/gradcheck.h"
#include "support/test_data.h"
#include "trainer_support.h"

#include <rora/adapters/combine.h>
#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/initializers/olora.h>
#include <rora/adapters/peft_folder.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/low_rank_term.h>
#include <rora/core/projection.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/rank_sampler.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::relative_error;
using testing::TemporaryFolder;
using ::testing::ThrowsMessage;

AdapterOptions of_rank(int64_t rank) {
  return AdapterOptions().low_rank(LowRankOptions().rank(rank).alpha(8).scaling(Scaling::kStandard));
}

/// A training of a tiny LLaMA by DyLoRA.
struct RankTraining {
  explicit RankTraining(
      const TrainerOptions& options, const RankSamplerOptions& ranks = {}, const AdapterOptions& adapters = of_rank(4))
      : model(testing::tiny_llama()) {
    at::manual_seed(31);
    attach_adapters(*model, adapters);
    trainer.emplace(model, testing::counting(16), options);
    trainer->add_hook(std::make_shared<RankSampler>(ranks));
  }

  /// The ranks by which the adapters computed the last step.
  std::vector<int64_t> last_ranks() const {
    std::vector<int64_t> ranks;
    for (const auto& module : model->modules()) {
      auto* projection = module->as<ProjectionImpl>();
      if (projection != nullptr && projection->active_adapter() != nullptr) {
        ops::LowRankTerm term;
        projection->active_adapter()->low_rank_term(*projection, term);
        ranks.push_back(term.a.size(0));
      }
    }
    return ranks;
  }

  DecoderForCausalLM model;
  std::optional<Trainer> trainer;
};

TEST(RankSampler, DrawsARankEvenlyForEachStepWhichAllModulesShare) {
  RankTraining run(testing::options().max_steps(200).lr(0.0), RankSamplerOptions().last_only(false));
  std::map<int64_t, int64_t> steps;
  run.trainer->set_callback([&](const StepMetrics&) {
    const std::vector<int64_t> ranks = run.last_ranks();
    EXPECT_THAT(ranks, ::testing::Each(ranks.front()));
    ++steps[ranks.front()];
  });
  run.trainer->train();
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_EQ(steps.begin()->first, 1);
  for (const auto& [rank, count] : steps) {
    EXPECT_NEAR(static_cast<double>(count), 50.0, 25.0) << rank; // four standard deviations
  }
}

TEST(RankSampler, AModuleOfFewerRanksHasAllOfItsOwn) {
  RankTraining run(
      testing::options().max_steps(1).lr(0.0), {},
      of_rank(64).target_modules(std::vector<std::string>{"q_proj", "v_proj"}).rank_pattern({{"v_proj", 1}}));
  run.trainer->set_callback([&](const StepMetrics&) {
    const std::vector<int64_t> ranks = run.last_ranks();
    EXPECT_GT(ranks[0], 1);
    EXPECT_EQ(ranks[1], 1);
  });
  run.trainer->train();
}

TEST(RankSampler, OfRankOneIsLoRA) {
  for (const bool last_only : {false, true}) {
    RankTraining run(testing::options(), RankSamplerOptions().last_only(last_only), of_rank(1));
    run.trainer->train();
    auto model = testing::tiny_llama();
    at::manual_seed(31);
    attach_adapters(*model, of_rank(1));
    Trainer plain(model, testing::counting(16), testing::options());
    plain.train();
    EXPECT_LT(relative_error(run.trainer->parameters().values(), plain.parameters().values()), 1e-6);
  }
}

/// The loss on what was trained on, with the folder's adapter.
double loss_with(const std::filesystem::path& folder) {
  auto model = testing::tiny_llama();
  load_adapter(*model, folder);
  return evaluate_perplexity(model, testing::counting(16), 4).loss;
}

TEST(RankSampler, TrainsAnAdapterWhoseEveryFirstRanksHaveLearnedTheTask) {
  for (const bool last_only : {false, true}) {
    const TemporaryFolder folder;
    RankTraining run(testing::options(16).max_steps(60).lr(3e-2), RankSamplerOptions().last_only(last_only));
    const double before = evaluate_perplexity(run.model, testing::counting(16), 4).loss;
    run.trainer->train();
    save_adapter(*run.model, folder / "all");
    const LowRankFolder all = read_low_rank_folder(folder / "all");
    EXPECT_NEAR(loss_with(folder / "all"), evaluate_perplexity(run.model, testing::counting(16), 4).loss, 1e-5);
    for (int64_t rank = 1; rank <= 4; ++rank) {
      LowRankFolder first = all;
      take_ranks(first, rank);
      save_low_rank_folder(first, folder / "first");
      EXPECT_EQ(read_low_rank_folder(folder / "first").options.low_rank().rank(), rank);
      EXPECT_EQ(read_low_rank_folder(folder / "first").options.low_rank().alpha(), 8.0);
      EXPECT_LT(loss_with(folder / "first"), 0.8 * before) << rank << last_only;
    }
  }
}

TEST(RankSampler, AResumedRunIsTheUninterruptedOneBitForBit) {
  const auto refuse_another = [](const TrainerOptions& resumable) {
    RankTraining other(resumable, RankSamplerOptions().last_only(false));
    EXPECT_THROW(other.trainer->restore(), FormatError) << "what a step trains is another run";
  };
  testing::expect_the_same_bits_once_resumed<RankTraining>(
      testing::options().max_steps(10), 4, refuse_another, [](const RankTraining&, const RankTraining&) {});
}

TEST(RankSampler, LeavesTheAdaptersWholeOnceItIsGone) {
  RankTraining run(testing::options());
  run.trainer->train();
  run.trainer.reset();
  run.model->train();
  EXPECT_THAT(run.last_ranks(), ::testing::Each(4));
}

TEST(RankSampler, RefusesWhatHasNoFirstRanks) {
  const auto train = [](const AdapterOptions& adapters) {
    RankTraining run(testing::options(), {}, adapters);
    run.trainer->train();
  };
  EXPECT_THAT(
      [&] { train(AdapterOptions().low_rank(LowRankOptions().rank(2).dora(true))); },
      ThrowsMessage<c10::ValueError>(HasSubstr("with DoRA cannot be trained at lower ranks")));
  EXPECT_THAT(
      [&] { train(AdapterOptions().low_rank(LowRankOptions().rank(2).initializer(olora()))); },
      ThrowsMessage<c10::ValueError>(HasSubstr("over a rewritten base")));
  EXPECT_THAT(
      [&] { train(AdapterOptions().low_rank(LowRankOptions().rank(2).initializer(edora()).core(true))); },
      ThrowsMessage<c10::ValueError>(HasSubstr("with a core cannot be trained at lower ranks")));
}

} // namespace
} // namespace rora
