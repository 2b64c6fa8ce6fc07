#include "device_model.h"
#include "support/operator_watch.h"

#include <rora/core/initializer.h>
#include <rora/data/batch.h>
#include <rora/training/adamw.h>
#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/core/stack.h>
#include <gtest/gtest.h>
#include <ops/cuda/gemm_sum.h>
#include <torch/library.h>

#if defined(RORA_HAS_CUDA)
#include "support/no_waiting.h"

#include <c10/util/Exception.h>
#endif

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rora {
namespace {

using rora::testing::device_model::Form;
using rora::testing::device_model::forms;
using rora::testing::device_model::make;
using rora::testing::device_model::trained;

/// For operators of one result that LibTorch has for Meta in Python alone: takes its shape from the CPU's kernel, given
/// zeros.
void shape_of_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const size_t begin = stack->size() - arguments.size();
  at::Tensor written;
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[begin + i];
    if (value.isTensor() && value.toTensor().is_meta()) {
      const at::Tensor x = value.toTensor();
      value = at::zeros(x.sizes(), x.options().device(at::kCPU));
      if (arguments[i].is_out()) {
        written = x;
      }
    }
  }
  op.callBoxed(stack);
  const at::Tensor result = torch::jit::pop(*stack).toTensor();
  torch::jit::push(
      stack,
      written.defined() ? written.resize_(result.sizes())
                        : at::empty(result.sizes(), result.options().device(at::kMeta)));
}

TORCH_LIBRARY_IMPL(aten, Meta, m) {
  for (const char* name : {"abs.out", "embedding_dense_backward", "index_select", "where.self", "where.self_out"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&shape_of_cpu>());
  }
}

std::vector<Example> examples() {
  std::vector<Example> examples;
  for (int64_t i = 0; i < 6; ++i) {
    Example example;
    for (int64_t place = 0; place < 4 + i; ++place) {
      example.input_ids.push_back((5 * i + place) % 32);
      example.labels.push_back(place < 2 ? kIgnoreIndex : example.input_ids.back());
    }
    examples.push_back(example);
  }
  return examples;
}

class DeviceStep : public ::testing::TestWithParam<Form> {};

// A tensor on Meta has no elements: whatever looks at one (`item`, `nonzero`, a copy to the CPU) throws, where on a GPU
// it would wait.
TEST_P(DeviceStep, LooksAtNoElementOfTheDevice) {
  DecoderForCausalLM model = make(GetParam(), at::kMeta);
  ParameterTable parameters(trained(model, GetParam()));
  const Batch batch = make_batch(examples(), GetParam().rows);
  LossSum loss;
  ASSERT_NO_THROW(loss = model->loss({batch.input_ids, batch.attention_mask}, batch.labels));
  EXPECT_TRUE(loss.sum.is_meta());
  EXPECT_EQ(loss.tokens, batch.labelled_tokens);
  ASSERT_NO_THROW((loss.sum / static_cast<double>(loss.tokens)).backward());
  at::Tensor norm;
  ASSERT_NO_THROW(norm = parameters.clip_gradients(1.0));
  EXPECT_TRUE(norm.is_meta());
}

/// How often numbers were brought from the CPU to another device.
int copies_to_device(const std::function<void()>& work) {
  int copies = 0;
  const testing::OperatorWatch watch([&](const at::RecordFunction& call) {
    if (call.name() == std::string_view("aten::copy_")) {
      copies += !call.inputs()[0].toTensor().is_cpu() && call.inputs()[1].toTensor().is_cpu();
    }
  });
  work();
  return copies;
}

// What a CUDA graph repeats must be on the device by then.
TEST_P(DeviceStep, ComputesWithoutACopyToTheDeviceOnceItsInputIsPrepared) {
#if !defined(NDEBUG)
  GTEST_SKIP() << "LibTorch, built with NDEBUG, lays out the record of a call otherwise";
#endif
  if (GetParam().adapter.dropout() > 0.0) {
    GTEST_SKIP() << "masks are made on the CPU where there is no kernel";
  }
  DecoderForCausalLM model = make(GetParam(), at::kMeta);
  ParameterTable parameters(trained(model, GetParam()));
  const Batch batch = make_batch(examples(), GetParam().rows);
  PreparedLoss prepared = model->prepare_loss({batch.input_ids, batch.attention_mask}, batch.labels);
  for (const at::Tensor* each : prepared.tensors()) {
    EXPECT_TRUE(!each->defined() || each->is_cpu());
  }
  PreparedLoss moved;
  EXPECT_GT(copies_to_device([&] { moved = prepared.on(at::kMeta); }), 0);
  const at::Tensor factor = at::full({}, 0.1, at::kMeta);
  EXPECT_EQ(copies_to_device([&] { model->compute_loss(moved).backward(factor); }), 0);
}

TEST_P(DeviceStep, WithRoomFormsEachInputsGradientInOneProduct) {
  if (!GetParam().room) {
    GTEST_SKIP() << "there is no room for A";
  }
  DecoderForCausalLM model = make(GetParam(), at::kMeta);
  ParameterTable parameters(trained(model, GetParam()));
  const Batch batch = make_batch(examples(), GetParam().rows);
  const LossSum loss = model->loss({batch.input_ids, batch.attention_mask}, batch.labels);
  std::vector<size_t> products;
  const testing::OperatorWatch watch([&](const at::RecordFunction& call) {
    if (call.name() != std::string_view("rora::sum_of_products")) {
      return;
    }
    const auto left = call.inputs()[0].toTensorVector(), right = call.inputs()[1].toTensorVector();
    const bool forms_dx = right[0].stride(1) == 1; // else W stands as Wᵀ: z of DoRA, which a GPU's kernel forms
    if (forms_dx && left.size() > 1) {
      products.push_back(ops::detail::join_pairs(left, right).a.size());
    }
  });
  loss.sum.backward();
  // Of two layers: of q, k and v, o, gate and up, and down, but not of what the frozen embedding gives.
  EXPECT_EQ(products, std::vector<size_t>(2 * 4 - 1, 1));
}

TEST_P(DeviceStep, DoesNotDependOnWhereTheBatchLies) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const Batch batch = make_batch(examples(), GetParam().rows);
  const auto gradients = [&](at::Device model_device, at::Device batch_device) {
    DecoderForCausalLM model = make(GetParam(), model_device);
    ParameterTable parameters(trained(model, GetParam()));
    at::manual_seed(3);
    const at::Tensor mask =
        batch.attention_mask.defined() ? batch.attention_mask.to(batch_device) : batch.attention_mask;
    const LossSum loss = model->loss({batch.input_ids.to(batch_device), mask}, batch.labels.to(batch_device));
    loss.sum.backward();
    return parameters.gradients().to(at::kCPU, at::kDouble);
  };
  const at::Tensor of_cpu = gradients(at::kCPU, at::kCPU);
  const at::Tensor of_gpu = gradients(at::kCUDA, at::kCPU);
  EXPECT_TRUE(at::equal(of_gpu, gradients(at::kCUDA, at::kCUDA)));
  const double tolerance = GetParam().dtype == at::kFloat ? 1e-4 : 5e-2;
  EXPECT_LT(((of_gpu - of_cpu).norm() / of_cpu.norm()).item<double>(), tolerance);
}

#if defined(RORA_HAS_CUDA)
TEST_P(DeviceStep, WaitsForNoGpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  DecoderForCausalLM model = make(GetParam(), at::kCUDA);
  ParameterTable parameters(trained(model, GetParam()));
  AdamW optimizer(parameters);
  const Batch batch = make_batch(examples(), GetParam().rows);
  const auto step = [&] {
    parameters.zero_grad();
    const LossSum loss = model->loss({batch.input_ids, batch.attention_mask}, batch.labels);
    (loss.sum / static_cast<double>(loss.tokens)).backward();
    optimizer.step(1e-3, parameters.clip_gradients(1.0).isfinite().logical_not().to(at::kFloat));
  };
  step(); // libraries are loaded
  const testing::NoWaiting no_waiting;
  EXPECT_THROW(parameters.values()[0].item(), c10::Error);
  EXPECT_NO_THROW(step());
}

/// While it lives, counts where the program waits for the GPU; this thread's alone.
class CountedWaits : public c10::WarningHandler {
 public:
  CountedWaits() : guard_(this) {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN);
  }
  ~CountedWaits() override {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
  }
  void process(const c10::Warning& warning) override {
    count_ += warning.msg().find("synchroniz") != std::string::npos;
  }
  int count() const {
    return count_;
  }

 private:
  c10::WarningUtils::WarningHandlerGuard guard_;
  int count_ = 0;
};

TEST_P(DeviceStep, OfATrainerWaitsForTheGpuOnce) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  if (GetParam().dtype == at::kHalf) {
    GTEST_SKIP() << "a model in float16 is not trained";
  }
  constexpr int64_t kSteps = 5;
  Trainer trainer(make(GetParam(), at::kCUDA), examples(), TrainerOptions().max_steps(kSteps));
  const CountedWaits waits;
  std::vector<int> counts;
  trainer.set_callback([&](const StepMetrics&) { counts.push_back(waits.count()); });
  trainer.train();
  ASSERT_EQ(counts.size(), kSteps);
  for (size_t step = 2; step < counts.size(); ++step) { // the first load libraries
    EXPECT_EQ(counts[step] - counts[step - 1], 1) << "step " << step + 1;
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(, DeviceStep, ::testing::ValuesIn(forms()), [](const auto& info) { return info.param.name; });

TEST(DeviceModel, InFloat16IsTheModelInFloat32) {
  const auto step = [](at::ScalarType dtype) {
    Form form;
    form.dtype = dtype;
    form.adapter.dora(true);
    DecoderForCausalLM model = make(form, at::kCPU);
    ParameterTable parameters(trained(model, form));
    const Batch batch = make_batch(examples(), {{0, 1, 2}, {3, 4}});
    const LossSum loss = model->loss({batch.input_ids, batch.attention_mask}, batch.labels);
    loss.sum.backward();
    return std::pair(loss.sum.item<double>(), parameters.gradients().to(at::kDouble));
  };
  const auto [loss, gradients] = step(at::kHalf);
  const auto [expected_loss, expected] = step(at::kFloat);
  EXPECT_NEAR(loss / expected_loss, 1.0, 2e-3);
  EXPECT_LT(((gradients - expected).norm() / expected.norm()).item<double>(), 2e-2);
}

TEST(DeviceModel, OnMetaWhateverLooksAtAnElementThrows) {
  const at::Tensor x = at::zeros({3}, at::kMeta);
  EXPECT_THROW(x.max().item(), c10::Error);
  EXPECT_THROW(x.nonzero(), c10::Error);
  EXPECT_THROW(x.index({x > 0}), c10::Error);
  EXPECT_THROW(x.cpu(), c10::Error);
}

TEST(DeviceModel, RefusesLabelsOutsideTheVocabularyAllTheSame) {
  for (const bool head : {false, true}) {
    for (const int64_t label : {int64_t{32}, int64_t{-1}}) {
      for (const at::Device device : {at::Device(at::kCPU), at::Device(at::kMeta)}) {
        Form form;
        form.head = head;
        DecoderForCausalLM model = make(form, device);
        const Batch batch = make_batch(examples(), {{5}});
        batch.labels[0][4] = label;
        EXPECT_THROW(model->loss({batch.input_ids}, batch.labels), c10::IndexError) << label << " on " << device;
      }
    }
  }
}

TEST(DeviceModel, AdaptersBeginAlikeOnEveryDevice) {
  // The CPU's numbers are drawn whatever the adapter's device: what is drawn next follows from them.
  const auto next = [](at::Device device) {
    at::Tensor a = at::empty({4, 16}, device), b = at::empty({8, 4}, device);
    at::manual_seed(4);
    kaiming_uniform()->initialize(*Projection(16, 8), {}, {a, b, 1.0});
    return at::rand({4});
  };
  EXPECT_TRUE(at::equal(next(at::kMeta), next(at::kCPU)));
}

} // namespace
} // namespace rora
