// The operators at the sizes of SmolLM2-135M with 4 rows of 256 tokens, in bfloat16, beside what LibTorch has for the
// same.

#include <rora/ops/attention.h>
#include <rora/ops/cross_entropy.h>
#include <rora/ops/rms_norm.h>
#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include <functional>
#include <vector>

namespace {

using Tensors = std::vector<at::Tensor>;

constexpr int64_t kTokens = 1024;

at::Tensor input(at::IntArrayRef sizes) {
  return at::randn(sizes).to(at::kBFloat16).set_requires_grad(true);
}

/// Forward and backward of `function`.
void run(benchmark::State& state, const Tensors& inputs, const std::function<at::Tensor(const Tensors&)>& function) {
  at::Tensor gradient;
  for (auto _ : state) {
    const at::Tensor y = function(inputs);
    if (!gradient.defined()) {
      gradient = at::ones_like(y);
    }
    y.backward(gradient);
    for (const at::Tensor& each : inputs) {
      each.mutable_grad() = at::Tensor();
    }
  }
}

Tensors heads() {
  const auto turned = [](int64_t count) {
    return input({4, 256, count, 64}).detach().transpose(1, 2).set_requires_grad(true);
  };
  return {turned(9), turned(3), turned(3)};
}

void attention(benchmark::State& state) {
  run(state, heads(), [](const Tensors& in) { return rora::ops::attention(in[0], in[1], in[2]); });
}
void attention_of_libtorch(benchmark::State& state) {
  run(state, heads(), [](const Tensors& in) {
    return at::scaled_dot_product_attention(
        in[0], in[1], in[2], std::nullopt, /*dropout_p=*/0.0, /*is_causal=*/true, std::nullopt, /*enable_gqa=*/true);
  });
}

void rms_norm(benchmark::State& state) {
  const at::Tensor weight = at::ones({576}, at::kBFloat16);
  run(state, {input({kTokens, 576})}, [&](const Tensors& in) { return rora::ops::rms_norm(in[0], weight, 1e-5); });
}
void rms_norm_of_libtorch(benchmark::State& state) {
  const at::Tensor weight = at::ones({576}, at::kBFloat16);
  run(state, {input({kTokens, 576})}, [&](const Tensors& in) { return at::rms_norm(in[0], {576}, weight, 1e-5); });
}

void swiglu(benchmark::State& state) {
  run(state, {input({kTokens, 1536}), input({kTokens, 1536})},
      [](const Tensors& in) { return rora::ops::swiglu(in[0], in[1]); });
}
void swiglu_of_libtorch(benchmark::State& state) {
  run(state, {input({kTokens, 1536}), input({kTokens, 1536})},
      [](const Tensors& in) { return at::silu(in[0]) * in[1]; });
}

void token_cross_entropy(benchmark::State& state) {
  const at::Tensor weight = at::randn({49152, 576}).to(at::kBFloat16);
  const at::Tensor targets = at::randint(0, 49152, {kTokens}, at::kLong);
  run(state, {input({kTokens, 576})},
      [&](const Tensors& in) { return rora::ops::token_cross_entropy(in[0], weight, targets); });
}
void token_cross_entropy_of_libtorch(benchmark::State& state) {
  const at::Tensor weight = at::randn({49152, 576}).to(at::kBFloat16);
  const at::Tensor targets = at::randint(0, 49152, {kTokens}, at::kLong);
  run(state, {input({kTokens, 576})}, [&](const Tensors& in) {
    return at::cross_entropy_loss(in[0].mm(weight.t()).to(at::kFloat), targets, {}, at::Reduction::Sum);
  });
}

BENCHMARK(attention)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(attention_of_libtorch)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(rms_norm)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(rms_norm_of_libtorch)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(swiglu)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(swiglu_of_libtorch)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(token_cross_entropy)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(token_cross_entropy_of_libtorch)->Unit(benchmark::kMillisecond)->UseRealTime();

} // namespace
