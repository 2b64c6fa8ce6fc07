// A rank schedule of one's own, in one file: a hook that takes the least important ranks away as the run goes on.
#include "training.h"

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

struct TrainingWithSchedule : testing::TrainingOfToy {
  explicit TrainingWithSchedule(const TrainerOptions& options, int64_t target = 2)
      : TrainingOfToy(options), hook(std::make_shared<RankSchedule>(target, 1e-3)) {
    trainer->add_hook(hook);
  }

  std::shared_ptr<RankSchedule> hook;
};

TrainerOptions options() {
  return TrainerOptions().lr(1e-2).max_steps(8).grad_accum(2).batches(BatchOptions().batch_size(4).seed(5));
}

TEST(RankSchedule, KeepsToItsBudgetAtEachStepAndHoldsTheOthersAtZero) {
  TrainingWithSchedule run(options());
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
  TrainingWithSchedule run(options().max_steps(60));
  testing::expect_it_learns_and_loads(run);
}

TEST(RankSchedule, AResumedRunIsTheUninterruptedOneBitForBit) {
  const testing::TemporaryFolder folder;
  const auto resumable = options().output(folder.path()).resume(true);
  testing::expect_resumed_is_uninterrupted<TrainingWithSchedule>(
      [](const TrainerOptions& each) { return std::make_unique<TrainingWithSchedule>(each); }, options(), resumable,
      [](const TrainingWithSchedule& a, const TrainingWithSchedule& b) {
        EXPECT_TRUE(at::equal(a.hook->mask(), b.hook->mask()));
      });
  TrainingWithSchedule other(resumable, /*target=*/1);
  EXPECT_THROW(other.trainer->restore(), FormatError) << "another schedule is another run";
}

} // namespace
} // namespace rora
