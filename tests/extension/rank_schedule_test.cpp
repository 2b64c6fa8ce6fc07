// A rank schedule of one's own, in one file: a hook that takes the least important ranks away as the run goes on.
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/error.h>
#include <rora/evaluation/perplexity.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace rora {
namespace {

/// As AdaLoRA (arXiv 2303.10512) does it, with the ranks of B·A in place of an SVD's. The importance of rank k is the
/// mean of |w·∂L/∂w| over row k of A and column k of B, averaged over steps. A budget of ranks falls from all to
/// `target` a pair by a cubic over the run; the least important ranks of the whole model above it have their column of
/// B held at 0. To keep A's rows apart, λ·mean‖AAᵀ − I‖² is added to the loss.
class RankSchedule : public TrainingHook {
 public:
  RankSchedule(int64_t target, double orthogonality) : target_(target), orthogonality_(orthogonality) {}

  std::string name() const override {
    return "rank_schedule";
  }

  void begin(const StepContext& context) override {
    const auto& pairs = context.parameters.pairs();
    const int64_t rank = context.parameters.entries()[pairs.at(0).a].tensor.size(0);
    importance_ = at::zeros({std::ssize(pairs), rank});
    mask_ = at::ones({std::ssize(pairs), rank});
  }

  at::Tensor extra_loss(const StepContext& context) override {
    at::Tensor sum = at::zeros({});
    for (const ParameterPair& pair : context.parameters.pairs()) {
      const at::Tensor& a = context.parameters.entries()[pair.a].tensor;
      sum = sum + (a.mm(a.t()) - at::eye(a.size(0))).square().sum();
    }
    return orthogonality_ * sum / static_cast<double>(context.parameters.pairs().size());
  }

  void after_step(const StepContext& context) override {
    constexpr double kMemory = 0.85;
    ParameterTable& table = context.parameters;
    const auto sensitivity = [&](size_t entry, int64_t dim) {
      const ParameterEntry& each = table.entries()[entry];
      return (each.tensor * ParameterTable::slice(each, table.gradients())).abs().mean(dim);
    };
    for (size_t i = 0; i < table.pairs().size(); ++i) {
      const ParameterPair& pair = table.pairs()[i];
      importance_[static_cast<int64_t>(i)].mul_(kMemory).add_(
          sensitivity(pair.a, 1) + sensitivity(pair.b, 0), 1.0 - kMemory);
    }
    choose(budget(context.step + 1, context.total_steps));
    for (size_t i = 0; i < table.pairs().size(); ++i) {
      const ParameterEntry& b = table.entries()[table.pairs()[i].b];
      ParameterTable::slice(b, table.values()).mul_(mask_[static_cast<int64_t>(i)]);
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override {
    return {{"importance", importance_}, {"mask", mask_}};
  }
  std::map<std::string, double> fingerprint() const override {
    return {{"target", static_cast<double>(target_)}, {"orthogonality", orthogonality_}};
  }

  /// Ranks of all pairs together after so many steps.
  int64_t budget(int64_t step, int64_t total_steps) const {
    const double left = 1.0 - static_cast<double>(step) / static_cast<double>(total_steps);
    const auto last = static_cast<double>(target_ * mask_.size(0));
    return static_cast<int64_t>(last + (static_cast<double>(mask_.numel()) - last) * std::pow(left, 3));
  }

  const at::Tensor& mask() const {
    return mask_;
  }

 private:
  void choose(int64_t budget) {
    const at::Tensor kept = std::get<1>(importance_.flatten().topk(budget));
    mask_.zero_().view({-1}).index_fill_(0, kept, 1.0);
  }

  int64_t target_;
  double orthogonality_;
  at::Tensor importance_; ///< `[pairs, rank]`
  at::Tensor mask_; ///< `[pairs, rank]`, 0 where a rank is taken away
};

std::vector<Example> counting(int64_t count) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    Example example;
    for (int64_t place = 0; place < 5 + i % 4; ++place) {
      example.input_ids.push_back((3 * i + place) % 32);
    }
    example.labels = example.input_ids;
    examples.push_back(example);
  }
  return examples;
}

struct TrainingOfToy {
  explicit TrainingOfToy(const TrainerOptions& options, int64_t target = 2) : model(testing::tiny_llama()) {
    at::manual_seed(3);
    attach_adapters(*model, AdapterOptions().low_rank(LowRankOptions().rank(4).alpha(8).dropout(0.1)));
    hook = std::make_shared<RankSchedule>(target, 1e-3);
    trainer.emplace(model, counting(24), options);
    trainer->add_hook(hook);
    trainer->set_save([this](const std::filesystem::path& path) { save_adapter(*model, path); });
  }

  DecoderForCausalLM model;
  std::shared_ptr<RankSchedule> hook;
  std::optional<Trainer> trainer;
};

TrainerOptions options() {
  return TrainerOptions().lr(1e-2).max_steps(8).grad_accum(2).batches(BatchOptions().batch_size(4).seed(5));
}

TEST(RankSchedule, KeepsToItsBudgetAtEachStepAndHoldsTheOthersAtZero) {
  TrainingOfToy run(options());
  run.trainer->set_callback([&](const StepMetrics& metrics) {
    EXPECT_EQ(run.hook->mask().sum().item<int64_t>(), run.hook->budget(metrics.step, metrics.total_steps));
    EXPECT_GT(metrics.extra_loss, 0.0);
  });
  run.trainer->train();
  const auto& table = run.trainer->parameters();
  int64_t columns = 0;
  for (const ParameterPair& pair : table.pairs()) {
    columns += table.entries()[pair.b].tensor.ne(0).any(0).sum().item<int64_t>();
  }
  EXPECT_EQ(columns, run.hook->mask().sum().item<int64_t>());
  EXPECT_EQ(columns, 2 * std::ssize(table.pairs()));
}

TEST(RankSchedule, TrainsAndWhatItSavesLoads) {
  const testing::TemporaryFolder folder;
  TrainingOfToy run(options().max_steps(60));
  const double before = evaluate_perplexity(run.model, counting(24)).loss;
  run.trainer->train();
  const double after = evaluate_perplexity(run.model, counting(24)).loss;
  EXPECT_LT(after, 0.7 * before);
  save_adapter(*run.model, folder.path());
  auto loaded = testing::tiny_llama();
  load_adapter(*loaded, folder.path());
  EXPECT_EQ(evaluate_perplexity(loaded, counting(24)).loss, after);
}

TEST(RankSchedule, AResumedRunIsTheUninterruptedOneBitForBit) {
  TrainingOfToy whole(options());
  whole.trainer->train();
  const testing::TemporaryFolder folder;
  const auto resumable = options().output(folder.path()).resume(true);
  TrainingOfToy first(resumable);
  first.trainer->set_callback([&](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      first.trainer->request_stop();
    }
  });
  EXPECT_TRUE(first.trainer->train().interrupted);
  TrainingOfToy second(resumable);
  EXPECT_EQ(second.trainer->restore(), 3);
  EXPECT_TRUE(at::equal(second.hook->mask(), first.hook->mask()));
  second.trainer->train();
  EXPECT_TRUE(at::equal(second.trainer->parameters().values(), whole.trainer->parameters().values()));
  EXPECT_TRUE(at::equal(second.hook->mask(), whole.hook->mask()));
  TrainingOfToy other(resumable, /*target=*/1);
  EXPECT_THROW(other.trainer->restore(), FormatError) << "another schedule is another run";
}

} // namespace
} // namespace rora
