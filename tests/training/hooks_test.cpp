#include "support/gradcheck.h"
#include "trainer_support.h"

#include <gtest/gtest.h>

#include <limits>

namespace rora {
namespace {

using rora::testing::adapted;
using rora::testing::counting;
using rora::testing::options;
using rora::testing::relative_error;

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

} // namespace
} // namespace rora
