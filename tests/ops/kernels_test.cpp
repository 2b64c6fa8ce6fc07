// The kernels of the processor against the same equations in double. ctest runs all of these once for each instruction
// set.

#include "support/gradcheck.h"

#include <rora/ops/attention.h>
#include <rora/ops/cross_entropy.h>
#include <rora/ops/rms_norm.h>
#include <rora/ops/rotary_embedding.h>
#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

namespace rora::ops {
namespace {

using Tensors = std::vector<at::Tensor>;
using Function = std::function<at::Tensor(const Tensors&)>;

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).norm().item<double>();
}

/// A function's value and the gradients of Σ value⊙(1, 2, 3, …)/n by its inputs, which are cast to `dtype`.
Tensors value_and_gradients(const Function& function, const Tensors& inputs, at::ScalarType dtype) {
  Tensors own;
  for (const at::Tensor& each : inputs) {
    own.push_back(each.detach().to(dtype).set_requires_grad(true));
  }
  const at::Tensor y = function(own);
  const at::Tensor weights =
      (at::arange(1, y.numel() + 1, at::kDouble) / y.numel()).view(y.sizes()).to(y.scalar_type());
  y.backward(weights);
  Tensors all{y};
  for (const at::Tensor& each : own) {
    all.push_back(each.grad());
  }
  return all;
}

/// `op` in float is right to rounding, and in bfloat16 no more than 1.5 times as far from the truth as `equation` is
/// when each of its operations rounds.
void expect_right(const Function& op, const Function& equation, const Tensors& inputs, const std::string& what) {
  const Tensors in_float = value_and_gradients(op, inputs, at::kFloat);
  const Tensors exact = value_and_gradients(equation, inputs, at::kDouble);
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_LT(distance(in_float[i], exact[i]), 3e-6 * (exact[i].norm().item<double>() + 1e-3))
        << what << ", float, " << i;
  }
  Tensors rounded;
  for (const at::Tensor& each : inputs) {
    rounded.push_back(each.to(at::kBFloat16).to(at::kDouble));
  }
  const Tensors truth = value_and_gradients(equation, rounded, at::kDouble);
  const Tensors ours = value_and_gradients(op, rounded, at::kBFloat16);
  const Tensors eager = value_and_gradients(equation, rounded, at::kBFloat16);
  for (size_t i = 0; i < truth.size(); ++i) {
    // Few numbers may all round well: a share of one rounding is allowed on top.
    const double allowed = 1.5 * distance(eager[i], truth[i]) + 1e-3 * truth[i].norm().item<double>() + 1e-6;
    EXPECT_LT(distance(ours[i], truth[i]), allowed) << what << ", bfloat16, " << i;
  }
}

at::Tensor random(at::IntArrayRef sizes) {
  return at::randn(sizes, at::kDouble);
}

TEST(Kernels, RMSNormIsItsEquationAtAnySize) {
  at::manual_seed(1);
  for (const int64_t size : {2, 7, 16, 100, 577}) {
    const auto op = [](const Tensors& in) { return rms_norm(in[0], in[1], 1e-5); };
    const auto equation = [](const Tensors& in) {
      return in[1] * in[0] * (in[0].square().mean(-1, /*keepdim=*/true) + 1e-5).rsqrt();
    };
    expect_right(op, equation, {random({2, 3, size}), random({size})}, std::to_string(size));
    const auto added_op = [](const Tensors& in) {
      const auto [sum, y] = add_rms_norm(in[0], in[2], in[1], 1e-5);
      return sum * y;
    };
    const auto added_equation = [&](const Tensors& in) {
      const at::Tensor sum = in[0] + in[2];
      return sum * equation({sum, in[1]});
    };
    expect_right(
        added_op, added_equation, {random({2, 3, size}), random({size}), random({2, 3, size})}, std::to_string(size));
  }
}

TEST(Kernels, SwiGLUIsItsEquationAtAnySize) {
  at::manual_seed(2);
  for (const int64_t size : {1, 7, 16, 100, 577}) {
    const auto op = [](const Tensors& in) { return swiglu(in[0], in[1]); };
    const auto equation = [](const Tensors& in) { return in[0] * in[0].sigmoid() * in[1]; };
    expect_right(op, equation, {4 * random({3, size}), random({3, size})}, std::to_string(size));
  }
}

TEST(Kernels, SwiGLUOfLargeNumbersStaysFinite) {
  const at::Tensor gate = at::tensor({-1e30, -200.0, -90.0, 90.0, 200.0, 1e30}, at::kFloat).set_requires_grad(true);
  const at::Tensor y = swiglu(gate, at::ones({6}));
  EXPECT_TRUE(at::equal(y.detach(), at::tensor({0.0f, 0.0f, 0.0f, 90.0f, 200.0f, 1e30f})));
  y.sum().backward();
  EXPECT_TRUE(at::equal(gate.grad(), at::tensor({0.0f, 0.0f, 0.0f, 1.0f, 1.0f, 1.0f})));
}

TEST(Kernels, NotANumberStaysOne) {
  const at::Tensor nan = at::full({20}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(swiglu(nan, at::ones({20})).isnan().all().item<bool>());
  EXPECT_TRUE(
      token_cross_entropy(nan.view({1, 20}), at::ones({3, 20}), at::zeros({1}, at::kLong)).isnan().item<bool>());
}

TEST(Kernels, RotaryEmbeddingIsItsEquationAtAnySize) {
  at::manual_seed(3);
  for (const int64_t head_dim : {2, 6, 64, 80}) {
    for (const int64_t tables : {1, 2}) {
      const at::Tensor angles = random({tables, 5, head_dim / 2});
      const at::Tensor both = at::cat({angles, angles}, -1);
      const auto op = [&](const Tensors& in) {
        return rotary_embedding(in[0], both.cos().to(in[0].scalar_type()), both.sin().to(in[0].scalar_type()));
      };
      const auto equation = [&](const Tensors& in) {
        const auto halves = in[0].chunk(2, -1);
        const at::Tensor cos = both.cos().to(in[0].scalar_type()).unsqueeze(1);
        const at::Tensor sin = both.sin().to(in[0].scalar_type()).unsqueeze(1);
        return in[0] * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
      };
      expect_right(op, equation, {random({2, 3, 5, head_dim})}, std::to_string(head_dim));
    }
  }
}

/// softmax of what `visible` leaves, with heads repeated.
at::Tensor attention_equation(const Tensors& in, const at::Tensor& visible) {
  const int64_t copies = in[0].size(1) / in[1].size(1);
  const at::Tensor scores =
      in[0].matmul(in[1].repeat_interleave(copies, 1).transpose(2, 3)) / std::sqrt(static_cast<double>(in[0].size(3)));
  const at::Tensor masked = scores.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity());
  return masked.softmax(-1).matmul(in[2].repeat_interleave(copies, 1));
}

TEST(Kernels, AttentionIsItsEquationAtAnySize) {
  at::manual_seed(4);
  struct Size {
    int64_t heads, kv_heads, queries, keys, head_dim;
  };
  for (const Size s :
       {Size{3, 1, 7, 7, 64}, Size{2, 2, 64, 64, 16}, Size{4, 2, 65, 65, 80}, Size{1, 1, 130, 130, 6},
        Size{2, 1, 200, 200, 128}, Size{2, 1, 3, 70, 32}, Size{2, 2, 66, 129, 34}}) {
    const std::string what = std::to_string(s.queries) + " queries of " + std::to_string(s.head_dim);
    const Tensors inputs{
        random({2, s.heads, s.queries, s.head_dim}), random({2, s.kv_heads, s.keys, s.head_dim}),
        random({2, s.kv_heads, s.keys, s.head_dim})};
    const at::Tensor visible = visible_keys({}, s.queries, s.keys, at::kCPU);
    expect_right(
        [](const Tensors& in) { return attention(in[0], in[1], in[2]); },
        [&](const Tensors& in) { return attention_equation(in, visible); }, inputs, what);
  }
}

TEST(Kernels, AttentionOfSequencesIsItsEquation) {
  at::manual_seed(5);
  const int64_t keys = 210;
  at::Tensor sequence = at::zeros({3, keys}, at::kLong);
  sequence[0].slice(0, 0, 70) = 1; // packed, with sequences that begin and end within blocks
  sequence[0].slice(0, 70, 75) = 2;
  sequence[0].slice(0, 75, 200) = 3;
  sequence[1].slice(0, 130) = 1; // padded on the left
  sequence[2].slice(0, 0, 30) = 1; // padded amid
  sequence[2].slice(0, 90, 210) = 1;
  for (const int64_t queries : {keys, int64_t{90}}) {
    const Tensors inputs{random({3, 4, queries, 64}), random({3, 2, keys, 64}), random({3, 2, keys, 64})};
    const at::Tensor visible = visible_keys(sequence, queries, keys, at::kCPU);
    expect_right(
        [&](const Tensors& in) { return attention(in[0], in[1], in[2], sequence); },
        [&](const Tensors& in) { return attention_equation(in, visible); }, inputs, std::to_string(queries));
  }
}

TEST(Kernels, AttentionOfPaddingThatFillsABlockIsItsEquation) {
  at::manual_seed(9);
  for (const int64_t keys : {65, 129, 190}) {
    at::Tensor sequence = at::ones({2, keys}, at::kLong);
    sequence[0].slice(0, 64) = 0;
    sequence[1].slice(0, 0, 64) = 0;
    const Tensors inputs{random({2, 2, keys, 16}), random({2, 1, keys, 16}), random({2, 1, keys, 16})};
    const at::Tensor visible = visible_keys(sequence, keys, keys, at::kCPU);
    expect_right(
        [&](const Tensors& in) { return attention(in[0], in[1], in[2], sequence); },
        [&](const Tensors& in) { return attention_equation(in, visible); }, inputs, std::to_string(keys));
  }
}

/// Windows shorter than a block, as long as one and over several, so that blocks are left out and cut.
TEST(Kernels, AttentionWithinAWindowIsItsEquation) {
  at::manual_seed(10);
  struct Size {
    int64_t queries, keys, window, prefix;
  };
  for (const Size s :
       {Size{7, 7, 3, 0}, Size{200, 200, 2, 0}, Size{200, 200, 64, 0}, Size{130, 130, 100, 0}, Size{330, 330, 70, 0},
        Size{66, 329, 20, 0}, Size{200, 230, 33, 30}, Size{140, 270, 5, 130}}) {
    const std::string what = std::to_string(s.keys) + " keys, a window of " + std::to_string(s.window);
    const Window window{s.window, s.prefix};
    const Tensors inputs{random({2, 4, s.queries, 34}), random({2, 2, s.keys, 34}), random({2, 2, s.keys, 34})};
    const at::Tensor visible = visible_keys({}, s.queries, s.keys, at::kCPU, window);
    expect_right(
        [&](const Tensors& in) { return attention(in[0], in[1], in[2], {}, window); },
        [&](const Tensors& in) { return attention_equation(in, visible); }, inputs, what);
  }
}

TEST(Kernels, AttentionOfSequencesWithinAWindowIsItsEquation) {
  at::manual_seed(11);
  const int64_t keys = 210;
  at::Tensor sequence = at::zeros({3, keys}, at::kLong);
  sequence[0].slice(0, 0, 70) = 1; // packed
  sequence[0].slice(0, 70, 75) = 2;
  sequence[0].slice(0, 75, 200) = 3;
  sequence[1].slice(0, 130) = 1; // padded on the left
  sequence[2].slice(0, 0, 30) = 1; // padded amid, over which a window reaches
  sequence[2].slice(0, 170, 210) = 1;
  for (const int64_t queries : {keys, int64_t{90}}) {
    for (const int64_t size : {4, 35, 100}) {
      const Tensors inputs{random({3, 4, queries, 16}), random({3, 2, keys, 16}), random({3, 2, keys, 16})};
      const at::Tensor visible = visible_keys(sequence, queries, keys, at::kCPU, {size});
      expect_right(
          [&](const Tensors& in) { return attention(in[0], in[1], in[2], sequence, {size}); },
          [&](const Tensors& in) { return attention_equation(in, visible); }, inputs,
          std::to_string(queries) + ", " + std::to_string(size));
    }
  }
}

TEST(Kernels, AttentionReadsHeadsAsProjectionsLeaveThem) {
  at::manual_seed(6);
  const Tensors inputs{random({2, 70, 4, 16}), random({2, 70, 2, 16}), random({2, 70, 2, 16})};
  const at::Tensor visible = visible_keys({}, 70, 70, at::kCPU);
  const auto turned = [](const Tensors& in) {
    return Tensors{in[0].transpose(1, 2), in[1].transpose(1, 2), in[2].transpose(1, 2)};
  };
  expect_right(
      [&](const Tensors& in) {
        const Tensors t = turned(in);
        return attention(t[0], t[1], t[2]);
      },
      [&](const Tensors& in) { return attention_equation(turned(in), visible); }, inputs, "strided");
}

TEST(Kernels, TokenCrossEntropyIsItsEquationAtAnySize) {
  at::manual_seed(7);
  for (const int64_t vocab : {1, 3, 16, 1000}) {
    const at::Tensor targets = at::randint(0, vocab, {9}, at::kLong);
    targets[2] = kIgnoreIndex;
    const auto op = [&](const Tensors& in) { return token_cross_entropy(in[0], in[1], targets, 4); };
    const auto equation = [&](const Tensors& in) {
      const auto wide = in[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
      return at::cross_entropy_loss(in[0].mm(in[1].t()).to(wide), targets, {}, at::Reduction::Sum);
    };
    expect_right(op, equation, {random({9, 8}), random({vocab, 8})}, std::to_string(vocab));
  }
}

TEST(Kernels, GiveTheSameBitsInEveryRunOnAnyNumberOfThreads) {
  at::manual_seed(8);
  const int threads = at::get_num_threads();
  const Tensors inputs{at::randn({3, 6, 100, 64}), at::randn({3, 3, 100, 64}), at::randn({3, 3, 100, 64})};
  const at::Tensor table = at::randn({1, 100, 64}), norm = at::randn({64});
  const auto function = [&](const Tensors& in) {
    const at::Tensor q = rotary_embedding(in[0], table, table);
    return swiglu(rms_norm(attention(q, in[1], in[2]), norm.to(q.scalar_type()), 1e-5), q);
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Tensors first = value_and_gradients(function, inputs, dtype);
    for (int run = 0; run < 10; ++run) {
      at::set_num_threads(1 + run % 3);
      const Tensors again = value_and_gradients(function, inputs, dtype);
      for (size_t i = 0; i < first.size(); ++i) {
        EXPECT_TRUE(at::equal(first[i], again[i])) << dtype << ", run " << run << ", " << i;
      }
    }
    at::set_num_threads(threads);
  }
}

} // namespace
} // namespace rora::ops
