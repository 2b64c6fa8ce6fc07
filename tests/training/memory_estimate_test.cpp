#include <rora/model/decoder.h>
#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/attach.h>
#include <rora/adapters/bottleneck.h>
#include <rora/adapters/initializers/edora.h>
#include <rora/adapters/prefix_tuning.h>
#include <rora/training/adamw.h>
#include <rora/training/lora_fa.h>
#include <rora/training/memory_estimate.h>

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <algorithm>

namespace rora {
namespace {

/// Counts what LibTorch's CPU allocator hands out on this thread.
class AllocatedBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    now += size;
    peak = std::max(peak, now);
  }
  bool memoryProfilingEnabled() const override {
    return true;
  }
  int64_t now = 0;
  int64_t peak = 0;
};

struct Case {
  const char* name = "";
  at::ScalarType dtype = at::kFloat;
  bool dora = false;
  double dropout = 0.0;
  Checkpointing checkpointing = Checkpointing::kNone;
  bool pretraining = false;
  int64_t unlabelled = 0; ///< tokens of each row
  bool other_form = false; ///< than LLaMA's
  std::shared_ptr<const AdapterKind> kind = nullptr; ///< another than low-rank ones
  bool frozen_a = false;
  bool core = false;
};

Case with_frozen_a(Case made) {
  made.frozen_a = true;
  return made;
}

Case with_core(Case made) {
  made.core = true;
  return made;
}

Case selective(Case made) {
  made.checkpointing = Checkpointing::kSelective;
  return made;
}

Case of_kind(
    const char* name, std::shared_ptr<const AdapterKind> kind, at::ScalarType dtype = at::kFloat,
    Checkpointing checkpointing = Checkpointing::kNone) {
  Case made{name, dtype};
  made.kind = std::move(kind);
  made.checkpointing = checkpointing;
  return made;
}

std::shared_ptr<const AdapterKind> bottlenecks(BottleneckForm form, double dropout = 0.0) {
  return bottleneck(BottleneckOptions().form(form).width(64).dropout(dropout));
}

std::shared_ptr<const AdapterKind> long_prefix() {
  return prefix_tuning(PrefixTuningOptions().num_virtual_tokens(100));
}

DecoderForCausalLM make_model(const Case& each) {
  torch::manual_seed(0);
  DecoderForCausalLM model(
      DecoderOptions()
          .vocab_size(1000)
          .hidden_size(192)
          .intermediate_size(512)
          .num_hidden_layers(6)
          .num_attention_heads(6)
          .num_key_value_heads(2)
          .tie_word_embeddings(true)
          .qk_norm(each.other_form)
          .norm_placement(each.other_form ? NormPlacement::kBeforeAndAfter : NormPlacement::kBefore)
          .hidden_act(each.other_form ? Activation::kGELUTanh : Activation::kSiLU));
  {
    at::NoGradGuard no_grad;
    for (at::Tensor& parameter : model->parameters()) {
      parameter.dim() == 1 ? parameter.fill_(1.0) : parameter.normal_(0.0, 0.02);
    }
  }
  if (each.pretraining) {
    for (at::Tensor& parameter : model->parameters()) {
      parameter.set_requires_grad(true);
    }
  } else {
    model->to(each.dtype);
    LowRankOptions low_rank;
    low_rank.rank(8).dora(each.dora).dropout(each.dropout);
    if (each.core) {
      low_rank.core(true).initializer(edora());
    }
    auto adapters = AdapterOptions().low_rank(low_rank).kind(each.kind);
    if (each.kind != nullptr && each.kind->peft_type() == "BOTTLENECK") {
      adapters.target_modules(std::vector<std::string>{"gate_proj", "up_proj", "down_proj"});
    }
    attach_adapters(*model, adapters);
    if (each.frozen_a) {
      freeze_a(*model);
    }
  }
  model->checkpointing = each.checkpointing;
  model->train();
  return model;
}

class MemoryEstimates : public ::testing::TestWithParam<Case> {};

TEST_P(MemoryEstimates, ComesCloseToWhatAStepAllocates) {
  DecoderForCausalLM model = make_model(GetParam());
  ParameterTable parameters(*model);
  AdamW optimizer(parameters);
  const BatchShape shape{4, 128, 4 * (GetParam().unlabelled > 0 ? 128 - GetParam().unlabelled : 127)};
  ModelInput input;
  input.input_ids = at::randint(0, 1000, {shape.rows, shape.seq}, at::kLong);
  at::Tensor labels = input.input_ids.clone();
  labels.narrow(1, 0, GetParam().unlabelled).fill_(kIgnoreIndex);
  auto counted = std::make_shared<AllocatedBytes>();
  int64_t kept = 0;
  const auto step = [&] {
    const LossSum loss = model->loss(input, labels);
    kept = counted->now;
    (loss.sum / static_cast<double>(loss.tokens)).backward();
    optimizer.step(1e-3);
    parameters.zero_grad();
  };
  step(); // DoRA's norms of the frozen weights are made once
  {
    c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counted);
    step();
  }
  const MemoryEstimate estimate = estimate_memory(model, shape);
  // Weights, gradients and moments stand before the step; what is formed of the largest trained weight does not.
  const int64_t expected = estimate.activations + estimate.temporaries + estimate.gradients - estimate.trained;
  const double ratio = static_cast<double>(expected) / static_cast<double>(counted->peak);
  EXPECT_GT(ratio, 0.9) << expected << " of " << counted->peak;
  EXPECT_LT(ratio, 1.1) << expected << " of " << counted->peak;
  const double kept_ratio = static_cast<double>(estimate.activations) / static_cast<double>(kept);
  EXPECT_GT(kept_ratio, 0.9) << estimate.activations << " of " << kept;
  EXPECT_LT(kept_ratio, 1.1) << estimate.activations << " of " << kept;
  if (GetParam().unlabelled > 0) {
    return; // the table is of a token that has a label
  }
  int64_t layers = 0;
  for (const KeptForBackward& each : estimate.kept) {
    layers += each.bytes * shape.rows * shape.seq;
  }
  EXPECT_GT(layers, 0.75 * static_cast<double>(estimate.activations)); // the rest is the last norm's and the loss's
  EXPECT_LE(layers, estimate.activations);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, MemoryEstimates,
    ::testing::Values(
        Case{"lora"}, Case{"lora_bfloat16", at::kBFloat16}, Case{"lora_dropout", at::kFloat, false, 0.1},
        Case{"dora", at::kFloat, true}, Case{"dora_dropout", at::kFloat, true, 0.1},
        Case{"checkpointing", at::kFloat, false, 0.0, Checkpointing::kFull}, selective({"selective"}),
        selective({"selective_bfloat16", at::kBFloat16}), selective({"selective_dropout", at::kFloat, false, 0.1}),
        selective({"selective_dora", at::kFloat, true}), selective(with_frozen_a({"selective_frozen_a"})),
        selective({"selective_more_norms_and_gelu", at::kFloat, false, 0.0, Checkpointing::kNone, false, 0, true}),
        selective({"selective_few_labelled", at::kFloat, false, 0.0, Checkpointing::kNone, false, 108}),
        selective(of_kind("selective_parallel", bottlenecks(BottleneckForm::kParallel))),
        Case{"pretraining", at::kFloat, false, 0.0, Checkpointing::kNone, true},
        Case{"more_norms_and_gelu", at::kFloat, false, 0.0, Checkpointing::kNone, false, 0, true},
        Case{"few_labelled", at::kFloat, false, 0.0, Checkpointing::kNone, false, 108},
        Case{"few_labelled_dora", at::kBFloat16, true, 0.0, Checkpointing::kNone, false, 108},
        with_frozen_a({"frozen_a"}), with_frozen_a({"frozen_a_dora", at::kFloat, true}),
        with_frozen_a({"frozen_a_dropout", at::kFloat, false, 0.1}), with_core({"core"}),
        with_core({"core_dora", at::kFloat, true}), with_core({"core_bfloat16", at::kBFloat16}),
        of_kind("series", bottlenecks(BottleneckForm::kSeries)),
        of_kind("series_bfloat16", bottlenecks(BottleneckForm::kSeries), at::kBFloat16),
        of_kind("series_dropout", bottlenecks(BottleneckForm::kSeries, 0.1)),
        of_kind("parallel", bottlenecks(BottleneckForm::kParallel)),
        of_kind("parallel_bfloat16", bottlenecks(BottleneckForm::kParallel), at::kBFloat16),
        of_kind("prefix", long_prefix()),
        of_kind("prefix_checkpointing", long_prefix(), at::kFloat, Checkpointing::kFull)),
    [](const auto& info) { return std::string(info.param.name); });

/// A frozen weight in another form than a dense tensor.
class Halves : public ops::LinearWeight {
 public:
  explicit Halves(const at::Tensor& weight) : half_(register_buffer("half", weight.to(at::kHalf))) {}
  int64_t in_features() const override {
    return half_.size(1);
  }
  int64_t out_features() const override {
    return half_.size(0);
  }
  at::ScalarType dtype() const override {
    return at::kFloat;
  }
  at::Device device() const override {
    return half_.device();
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return x.matmul(dense().t());
  }
  at::Tensor backward(const at::Tensor& dy) const override {
    return dy.matmul(dense());
  }
  at::Tensor dense() const override {
    return half_.to(at::kFloat);
  }

 private:
  at::Tensor half_;
};

TEST(MemoryEstimate, OfSelectiveCheckpointingLacksNormsResultsAndTheProductOfGateAndUp) {
  const BatchShape shape{4, 128, 4 * 128}; // the last layer's are there of all tokens
  const MemoryEstimate kept = estimate_memory(make_model({"lora"}), shape);
  const MemoryEstimate again = estimate_memory(make_model(selective({"selective"})), shape);
  EXPECT_EQ(kept.activations - again.activations, 4 * 128 * 6 * (2 * 192 + 512) * 4);
}

TEST(MemoryEstimate, OfCheckpointingIsOfTrainingAlone) {
  const auto kept = [](Checkpointing checkpointing) {
    DecoderForCausalLM model = make_model({"lora"});
    model->checkpointing = checkpointing;
    model->eval();
    auto counted = std::make_shared<AllocatedBytes>();
    c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counted);
    const at::Tensor ids = at::arange(256, at::kLong).view({2, 128});
    const LossSum loss = model->loss({ids}, ids);
    return counted->now;
  };
  EXPECT_EQ(kept(Checkpointing::kSelective), kept(Checkpointing::kNone));
  EXPECT_EQ(kept(Checkpointing::kFull), kept(Checkpointing::kNone));
}

TEST(MemoryEstimate, CountsAWeightOfAnotherStorageByItsBuffers) {
  DecoderForCausalLM model = make_model({"lora"});
  const BatchShape shape{4, 128, 4 * 127};
  const MemoryEstimate dense = estimate_memory(model, shape);
  Projection up = model->model->layers->at<DecoderLayerImpl>(0).mlp->up_proj;
  up->set_base(std::make_shared<Halves>(up->weight));
  const MemoryEstimate stored = estimate_memory(model, shape);
  EXPECT_EQ(stored.weights, dense.weights - 512 * 192 * 2);
  EXPECT_EQ(stored.activations, dense.activations);
  EXPECT_EQ(stored.trained, dense.trained);
}

TEST(MemoryEstimate, TakesTheOptimisersStateAsItIsTold) {
  DecoderForCausalLM model = make_model({"lora"});
  const BatchShape shape{4, 128, 4 * 127};
  const MemoryEstimate moments = estimate_memory(model, shape);
  EXPECT_EQ(moments.optimizer, 2 * moments.trained);
  const MemoryEstimate told = estimate_memory(model, shape, /*validation=*/false, /*optimizer_bytes=*/100);
  EXPECT_EQ(told.optimizer, 100);
  EXPECT_EQ(told.total(), moments.total() - moments.optimizer + 100);
}

TEST(LargestBatch, TakesPaddingIntoAccount) {
  std::vector<Example> examples;
  for (const int64_t length : {3, 9, 4, 4}) {
    examples.push_back({std::vector<int64_t>(length, 5), std::vector<int64_t>(length, 5)});
  }
  BatchOptions options;
  options.batch_size(2);
  options.shuffle(false);
  const BatchShape largest = largest_batch(examples, options);
  EXPECT_EQ(largest.rows, 2);
  EXPECT_EQ(largest.seq, 9);
  EXPECT_EQ(largest.labelled_tokens, 2 + 8); // the first token of a row is no target
}

} // namespace
} // namespace rora
