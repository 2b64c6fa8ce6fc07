#include "step_graphs_support.h"
#include "support/gradcheck.h"
#include "support/operator_watch.h"

#include <evaluation/batch_input.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string_view>
#include <utility>

namespace rora {
namespace {

using rora::testing::batch_of;
using rora::testing::Form;
using rora::testing::forms;
using rora::testing::losses_of_run;
using rora::testing::make;
using rora::testing::OperatorWatch;
using rora::testing::relative_error;
using rora::testing::Repeats;
using ::testing::HasSubstr;

/// The gradient of a batch as it is, and the sum of its losses.
std::pair<at::Tensor, double> plain_gradient(CausalLM model, ParameterTable& parameters, const Batch& batch) {
  parameters.zero_grad();
  const LossSum loss = detail::batch_loss(model, batch);
  (loss.sum / static_cast<double>(batch.labelled_tokens)).backward();
  return {parameters.gradients().clone(), loss.sum.item<double>()};
}

double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 3e-6 : 3e-2;
}

class StepGraphsTest : public ::testing::TestWithParam<Form> {};

TEST_P(StepGraphsTest, GiveEachBatchItsOwnGradient) {
  DecoderForCausalLM model = make(GetParam());
  ParameterTable parameters(*model);
  StepGraphs graphs(model, parameters, std::make_unique<Repeats>());
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const Batch batch = batch_of(GetParam(), seed);
    const auto [gradient, sum] = plain_gradient(model, parameters, batch);
    parameters.zero_grad();
    const at::Tensor found = graphs.add_gradient(batch, batch.labelled_tokens);
    EXPECT_EQ(found.scalar_type(), at::kDouble);
    EXPECT_NEAR(found.item<double>(), sum, tolerance(GetParam().dtype) * sum);
    EXPECT_LT(relative_error(parameters.gradients(), gradient), tolerance(GetParam().dtype)) << seed;
  }
  EXPECT_EQ(graphs.captures(), static_cast<int64_t>(graphs.shapes()));
  EXPECT_LE(graphs.shapes(), 2U);
}

TEST_P(StepGraphsTest, ReadAndWriteNothingOfABatchOnceItHasBeenTaken) {
  DecoderForCausalLM model = make(GetParam());
  ParameterTable parameters(*model);
  auto runner = std::make_unique<Repeats>();
  Repeats& repeats = *runner;
  StepGraphs graphs(model, parameters, std::move(runner));
  at::Tensor sum, wanted;
  for (int step = 0; step <= StepGraphs::kWarmUps; ++step) {
    Batch batch = batch_of(GetParam(), 1);
    parameters.zero_grad();
    sum = graphs.add_gradient(batch, batch.labelled_tokens);
    wanted = parameters.gradients().clone();
    for (const at::Tensor& each : {batch.input_ids, batch.labels, batch.attention_mask}) {
      if (each.defined()) {
        at::Tensor(each).fill_(1);
      }
    }
  }
  ASSERT_EQ(graphs.captures(), 1);
  const double before = sum.item<double>();
  parameters.zero_grad();
  repeats.last();
  EXPECT_TRUE(at::equal(parameters.gradients(), wanted));
  EXPECT_EQ(sum.item<double>(), before) << "a sum that was given away was written";
}

TEST_P(StepGraphsTest, AddUpOverTheBatchesOfAStep) {
  DecoderForCausalLM model = make(GetParam());
  ParameterTable parameters(*model);
  StepGraphs graphs(model, parameters, std::make_unique<Repeats>());
  const Batch first = batch_of(GetParam(), 1), second = batch_of(GetParam(), 2, 5, 70);
  const int64_t labelled = first.labelled_tokens + second.labelled_tokens;
  at::Tensor wanted = plain_gradient(model, parameters, first).first * (1.0 * first.labelled_tokens / labelled);
  wanted += plain_gradient(model, parameters, second).first * (1.0 * second.labelled_tokens / labelled);
  for (int step = 0; step < 4; ++step) {
    parameters.zero_grad();
    graphs.add_gradient(first, labelled);
    graphs.add_gradient(second, labelled);
    EXPECT_LT(relative_error(parameters.gradients(), wanted), tolerance(GetParam().dtype)) << step;
  }
  EXPECT_EQ(graphs.captures(), 2);
}

INSTANTIATE_TEST_SUITE_P(, StepGraphsTest, ::testing::ValuesIn(forms()), [](const auto& info) {
  return info.param.name;
});

TEST(StepGraphs, KeepTheShapesThatWereUsedLast) {
  const Form form;
  DecoderForCausalLM model = make(form);
  ParameterTable parameters(*model);
  StepGraphs graphs(model, parameters, std::make_unique<Repeats>());
  const auto take = [&](int64_t rows) {
    const Batch batch = batch_of(form, 1, rows, 4);
    graphs.add_gradient(batch, batch.labelled_tokens);
  };
  constexpr auto kMost = static_cast<int64_t>(StepGraphs::kMostShapes);
  for (int64_t rows = 1; rows <= kMost; ++rows) {
    for (int i = 0; i <= StepGraphs::kWarmUps; ++i) {
      EXPECT_EQ(graphs.captures(), rows - 1);
      take(rows);
    }
  }
  EXPECT_EQ(graphs.captures(), kMost);
  take(1); // now the second is the one that was used longest ago
  take(kMost + 1);
  EXPECT_EQ(graphs.shapes(), StepGraphs::kMostShapes);
  take(1);
  EXPECT_EQ(graphs.captures(), kMost) << "the first is there still";
  take(2);
  take(2);
  EXPECT_EQ(graphs.captures(), kMost) << "the second begins anew";
  take(2);
  EXPECT_EQ(graphs.captures(), kMost + 1);
}

/// As with a real graph, `capture` leaves no trace in the gradients, and the host has no part in a replay. It counts
/// DoRA's norms that are formed meanwhile.
class CountsNorms : public GraphRunner {
 public:
  explicit CountsNorms(ParameterTable& parameters) : parameters_(parameters) {}

  static int count(const std::function<void()>& work) {
    int found = 0;
    const OperatorWatch watch(
        [&](const at::RecordFunction& call) { found += call.name() == std::string_view("rora::dora_norm_rows"); });
    work();
    return found;
  }
  std::function<void()> capture(const std::function<void()>& work) override {
    const at::Tensor gradients = parameters_.gradients().clone();
    in_capture = count(work);
    parameters_.gradients().copy_(gradients);
    return [] {};
  }
  int in_capture = -1;

 private:
  ParameterTable& parameters_;
};

TEST(StepGraphs, FormDorasNormsInTheGraphAndDoNotLeaveThemToOthers) {
  Form form;
  form.adapter.dora(true);
  DecoderForCausalLM model = make(form);
  ParameterTable parameters(*model);
  auto runner = std::make_unique<CountsNorms>(parameters);
  const CountsNorms& counts = *runner;
  StepGraphs graphs(model, parameters, std::move(runner));
  const Batch batch = batch_of(form, 1), other = batch_of(form, 2, 5, 70);
  const auto take = [&](const Batch& each) { graphs.add_gradient(each, each.labelled_tokens); };
  constexpr int kAdapted = 10;
  EXPECT_EQ(CountsNorms::count([&] { take(batch); }), kAdapted);
  EXPECT_EQ(CountsNorms::count([&] { take(batch); }), kAdapted) << "an optimiser may have changed what they are of";
  take(other);
  ASSERT_EQ(counts.in_capture, -1);
  take(batch);
  EXPECT_EQ(counts.in_capture, kAdapted) << "norms that were there already are constants of the graph";
  EXPECT_EQ(CountsNorms::count([&] { take(other); }), kAdapted) << "norms that a capture left have no values";
}

TEST(WhyNotCaptured, NamesWhatTheHostDecides) {
  Form form;
  EXPECT_THAT(why_not_captured(make(form)).value_or(""), HasSubstr("not on a GPU"));
  DecoderForCausalLM model = make(form);
  for (const auto checkpointing : {Checkpointing::kSelective, Checkpointing::kFull}) {
    model->checkpointing = checkpointing;
    EXPECT_THAT(why_not_captured(model).value_or(""), HasSubstr("checkpointing"));
  }
  form.adapter.dropout(0.1);
  EXPECT_THAT(why_not_captured(make(form)).value_or(""), HasSubstr("dropout"));
}

TEST(CudaGraphRunner, NeedsAGpu) {
  EXPECT_THROW(cuda_graph_runner(at::kCPU), c10::ValueError);
}

TEST(StepGraphs, AreRefusedByATrainerOnTheCpu) {
  EXPECT_NO_THROW(losses_of_run(at::kCPU, false, false));
  EXPECT_THROW(losses_of_run(at::kCPU, true, false), c10::ValueError);
}

} // namespace
} // namespace rora
