#include "support/gradcheck.h"

#include <rora/core/low_rank_linear.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_products.h>
#include <rora/ops/rms_norm.h>
#include <rora/ops/rms_norm_shrink.h>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace rora::ops {
namespace {

using rora::testing::gradient_error;

constexpr int64_t kIn = 6;
constexpr double kEps = 1e-3, kScale = 0.7;

at::Tensor random(at::IntArrayRef sizes) {
  return at::randn(sizes, at::kDouble);
}

/// Terms of ranks 2 and 3, or the first alone; A and B begin at `tensors[first]`.
std::vector<LowRankTerm> terms_of(const std::vector<at::Tensor>& tensors, size_t first, size_t count) {
  std::vector<LowRankTerm> terms(count);
  for (size_t i = 0; i < count; ++i) {
    at::manual_seed(50 + i);
    terms[i].weight = std::make_shared<DenseWeight>(random({4, kIn}));
    terms[i].a = tensors[first + 2 * i];
    terms[i].b = tensors[first + 2 * i + 1];
    terms[i].scale = kScale;
  }
  return terms;
}

/// As a GPU has ranks: made up to multiples of 8, in the activations' dtype.
detail::LowRankForm padded_form(at::ScalarType dtype) {
  return {dtype, 8};
}

/// x, added, the norm's weight, then A and B of both terms.
std::vector<at::Tensor> inputs() {
  at::manual_seed(1);
  return {random({2, 3, kIn}), random({2, 3, kIn}), random({kIn}), random({2, kIn}),
          random({4, 2}),      random({3, kIn}),    random({4, 3})};
}

/// sum and what the terms make of y, with Ŝ from the norm or not.
std::vector<at::Tensor> normed_and_projected(
    const std::vector<at::Tensor>& in, size_t terms, bool with_added, bool from_norm,
    const detail::LowRankForm& form = {}) {
  const at::Tensor added = with_added ? in[1] : at::Tensor();
  std::vector<LowRankTerm> own = terms_of(in, 3, terms);
  std::vector<at::Tensor> outputs;
  if (from_norm) {
    at::Tensor a;
    {
      at::NoGradGuard no_grad;
      a = detail::side_by_side(own, form);
    }
    const NormedAndShrunk normed = add_rms_norm_shrink(in[0], added, in[2], kEps, a, kScale);
    outputs = detail::low_rank_linear_in(form, normed.y, own, normed.shrunk);
    outputs.push_back(normed.sum);
  } else {
    const auto [sum, y] = add_rms_norm(in[0], added, in[2], kEps);
    outputs = detail::low_rank_linear_in(form, y, own);
    outputs.push_back(sum);
  }
  return outputs;
}

class RMSNormShrink : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  const size_t terms = static_cast<size_t>(std::get<0>(GetParam()));
  const bool with_added = std::get<1>(GetParam());

  std::vector<at::Tensor> used_inputs() const {
    std::vector<at::Tensor> in = inputs();
    in.resize(3 + 2 * terms);
    return in;
  }
};

TEST_P(RMSNormShrink, GivesWhatTheNormAndTheProjectionsGive) {
  for (const auto& [dtype, padded] : {std::pair(at::kDouble, false), {at::kDouble, true}, {at::kFloat, true}}) {
    std::vector<at::Tensor> together = used_inputs(), apart = used_inputs();
    for (auto* all : {&together, &apart}) {
      for (at::Tensor& each : *all) {
        each = each.to(dtype).set_requires_grad(true);
      }
    }
    const auto form = padded ? padded_form(dtype) : detail::LowRankForm{};
    const auto found = normed_and_projected(together, terms, with_added, true, form);
    const auto expected = normed_and_projected(apart, terms, with_added, false, form);
    ASSERT_EQ(found.size(), expected.size());
    at::Tensor found_loss = at::zeros({}, dtype), expected_loss = at::zeros({}, dtype);
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
      found_loss = found_loss + (found[i] * found[i]).sum();
      expected_loss = expected_loss + (expected[i] * expected[i]).sum();
    }
    found_loss.backward();
    expected_loss.backward();
    for (size_t i = 0; i < together.size(); ++i) {
      if (i == 1 && !with_added) {
        EXPECT_FALSE(together[i].grad().defined());
      } else {
        EXPECT_TRUE(at::equal(together[i].grad(), apart[i].grad())) << "input " << i;
      }
    }
  }
}

TEST_P(RMSNormShrink, PassesGradcheckInDouble) {
  const auto function = [&](const std::vector<at::Tensor>& in) {
    std::vector<at::Tensor> all = in;
    if (!with_added) {
      all.insert(all.begin() + 1, at::Tensor());
    }
    return normed_and_projected(all, terms, with_added, true, padded_form(at::kDouble));
  };
  std::vector<at::Tensor> in = used_inputs();
  if (!with_added) {
    in.erase(in.begin() + 1);
  }
  EXPECT_LT(gradient_error(function, in), 1e-7);
}

INSTANTIATE_TEST_SUITE_P(
    , RMSNormShrink, ::testing::Combine(::testing::Values(1, 2), ::testing::Bool()), [](const auto& info) {
      return std::to_string(std::get<0>(info.param)) + (std::get<1>(info.param) ? "TermsOfASum" : "TermsOfX");
    });

TEST(RMSNormShrinkOperator, HasTheShapesOfItsOutputsOnMeta) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const std::optional<at::Tensor>&, const at::Tensor&, double, const at::Tensor&, double);
  const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("rora::rms_norm_shrink_forward", "").typed<Signature>();
  const auto meta = at::TensorOptions(at::kMeta).dtype(at::kBFloat16);
  const at::Tensor x = at::empty({2, 5, 16}, meta), weight = at::empty({16}, meta), a = at::empty({3, 16}, meta);
  const auto [sum, y, rstd, shrunk] = op.call(x, at::empty({2, 5, 16}, meta), weight, kEps, a, kScale);
  EXPECT_EQ(sum.sizes(), x.sizes());
  EXPECT_EQ(y.sizes(), x.sizes());
  EXPECT_EQ(rstd.sizes(), at::IntArrayRef({2, 5}));
  EXPECT_EQ(rstd.scalar_type(), at::kFloat);
  EXPECT_EQ(shrunk.sizes(), at::IntArrayRef({10, 3}));
  EXPECT_EQ(shrunk.scalar_type(), at::kBFloat16);
  EXPECT_FALSE(std::get<0>(op.call(x, std::nullopt, weight, kEps, a, kScale)).defined());
}

TEST(LowRankLinear, RefusesAShrunkThatIsNotItsTerms) {
  const std::vector<at::Tensor> in = inputs();
  const at::Tensor shrunk = random({6, 5});
  EXPECT_NO_THROW(low_rank_linear(in[0], terms_of(in, 3, 2), shrunk));
  const auto refuses = [&](const at::Tensor& given, const auto& change) {
    std::vector<LowRankTerm> terms = terms_of(in, 3, 2);
    change(terms);
    EXPECT_THROW(low_rank_linear(in[0], terms, given), c10::ValueError);
  };
  const auto nothing = [](auto&) {};
  refuses(random({6, 4}), nothing);
  refuses(random({5, 5}), nothing);
  refuses(shrunk.to(at::kFloat), nothing);
  refuses(random({6, 5}).set_requires_grad(true), nothing);
  refuses(shrunk, [](auto& terms) { terms[1].scale = 1.0; });
  refuses(shrunk, [](auto& terms) { terms[0].dropout = {0.5, 3}; });
  refuses(shrunk, [](auto& terms) { terms[1].a = terms[1].b = at::Tensor(); });
  refuses(random({6, 2}), [](auto& terms) {
    terms.pop_back();
    terms[0].dropout = {0.5, 3};
  });
}

} // namespace
} // namespace rora::ops
