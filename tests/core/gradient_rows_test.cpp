#include <rora/core/gradient_rows.h>
#include <rora/core/joined_gradients.h>
#include <rora/core/low_rank_linear.h>
#include <rora/ops/rms_norm.h>
#include <rora/ops/weight_with_room.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <vector>

namespace rora::ops {
namespace {

constexpr int64_t kTokens = 6, kIn = 24, kRank = 5, kPadded = 8;
const detail::LowRankForm kFormOfGpu{at::kBFloat16, kPadded};

/// Two terms whose W, and the room for A, lie below each other.
std::vector<LowRankTerm> stacked_terms(bool dora = false) {
  at::manual_seed(5);
  std::vector<at::Tensor> w;
  for (const int64_t out : {16, 8}) {
    w.push_back(at::randn({out, kIn}).to(at::kBFloat16));
  }
  std::vector<LowRankTerm> terms;
  for (const auto& weight : weights_with_room(w, kRank)) {
    LowRankTerm term;
    term.weight = weight;
    term.a = at::randn({kRank, kIn}).set_requires_grad(true);
    term.b = at::randn({weight->out_features(), kRank}).set_requires_grad(true);
    if (dora) {
      term.magnitude = (at::rand({weight->out_features()}) + 0.5).set_requires_grad(true);
      term.norm = at::rand({weight->out_features()}) + 0.5;
    }
    terms.push_back(std::move(term));
  }
  return terms;
}

std::vector<at::Tensor> parameters_of(const std::vector<LowRankTerm>& terms) {
  std::vector<at::Tensor> all;
  for (const LowRankTerm& term : terms) {
    all.insert(all.end(), {term.a, term.b});
    if (term.dora()) {
      all.push_back(term.magnitude);
    }
  }
  return all;
}

const at::TensorOptions kOptions = at::TensorOptions().dtype(at::kBFloat16);

TEST(GradientRows, LieSideBySideInOneBlock) {
  GradientRows rows({16, 8, 8});
  const at::Tensor second = rows.place(1, kTokens, kOptions), first = rows.place(0, kTokens, kOptions);
  EXPECT_EQ(second.sizes(), (std::vector<int64_t>{kTokens, 8}));
  EXPECT_EQ(second.strides(), (std::vector<int64_t>{32, 1}));
  EXPECT_TRUE(second.is_alias_of(first));
  EXPECT_EQ(second.storage_offset(), first.storage_offset() + 16);
  const GradientRows::Taken taken = rows.take();
  ASSERT_EQ(taken.places.size(), 3u);
  EXPECT_EQ(taken.given, (std::vector<bool>{true, true, false}));
  EXPECT_TRUE(taken.places[0].is_alias_of(first));
  EXPECT_TRUE(rows.take().places.empty());
}

TEST(GradientRows, AreNewOnesForAnotherPassAndForOtherSizes) {
  GradientRows rows({16, 8});
  const at::Tensor first = rows.place(0, kTokens, kOptions);
  EXPECT_FALSE(rows.place(0, kTokens, kOptions).is_alias_of(first)) << "each place is given once";
  EXPECT_EQ(rows.place(1, kTokens + 1, kOptions).size(0), kTokens + 1);
  EXPECT_EQ(rows.place(0, kTokens, at::kFloat).scalar_type(), at::kFloat);
  const at::Tensor taken = rows.take().places[0];
  EXPECT_FALSE(rows.place(0, kTokens, at::kFloat).is_alias_of(taken));
  EXPECT_FALSE(rows.fresh(kTokens, at::kFloat)[0].is_alias_of(rows.take().places[0]));
}

TEST(GradientRows, HavePlacesForTensorsOfTheirWidth) {
  const auto rows = c10::make_intrusive<GradientRows>(std::vector<int64_t>{16, 8});
  EXPECT_EQ((GradientPlace{rows, 1}.like(at::empty({2, 3, 8})).sizes()), (std::vector<int64_t>{2, 3, 8}));
  EXPECT_EQ(
      (GradientPlace{rows, 0}.for_rows(at::empty({2, 3, 4, 4}), 16).strides()), (std::vector<int64_t>{72, 24, 4, 1}));
  EXPECT_FALSE((GradientPlace{rows, 1}.like(at::empty({2, 3, 9})).defined()));
  EXPECT_FALSE((GradientPlace{rows, 1}.like(at::empty({0, 8})).defined()));
  EXPECT_FALSE(GradientPlace().like(at::empty({2, 8})).defined());
}

TEST(GradientRows, AreMadeWhereRoomIsLeftBelowTheWeights) {
  std::vector<LowRankTerm> terms = stacked_terms();
  EXPECT_EQ(detail::gradient_rows(terms, kFormOfGpu)->widths(), (std::vector<int64_t>{16, 8, 2 * kPadded}));
  EXPECT_EQ(detail::gradient_rows(terms, {}), nullptr) << "the CPU's products take A where it is";
  std::vector<LowRankTerm> first{terms[0]}, dropped = terms, other = terms;
  EXPECT_EQ(detail::gradient_rows(first, kFormOfGpu), nullptr) << "the other W lies below it";
  dropped[1].dropout = {0.5, 3};
  EXPECT_EQ(detail::gradient_rows(dropped, kFormOfGpu), nullptr);
  other[1].weight = std::make_shared<DenseWeight>(terms[1].weight->dense().clone());
  EXPECT_EQ(detail::gradient_rows(other, kFormOfGpu), nullptr);
  EXPECT_THROW(
      detail::low_rank_linear_in(
          kFormOfGpu, at::randn({kTokens, kIn}).to(at::kBFloat16), first, {}, detail::gradient_rows(terms, kFormOfGpu)),
      c10::ValueError);
}

/// Gradients of x and of all parameters, given the outputs' gradients; these are put into their places where `in_place`
/// says so.
std::vector<at::Tensor> gradients(bool dora, bool with_rows, std::vector<bool> in_place, at::Tensor* below = nullptr) {
  const std::vector<LowRankTerm> terms = stacked_terms(dora);
  const at::Tensor x = at::randn({2, 3, kIn}).to(at::kBFloat16).set_requires_grad(true);
  const auto rows = with_rows ? detail::gradient_rows(terms, kFormOfGpu) : nullptr;
  EXPECT_EQ(rows != nullptr, with_rows);
  const auto outputs = detail::low_rank_linear_in(kFormOfGpu, x, terms, {}, rows);
  std::vector<at::Tensor> dys;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor dy = at::randn(outputs[i].sizes()).to(at::kBFloat16);
    dys.push_back(in_place[i] && with_rows ? GradientPlace{rows, i}.like(dy).copy_(dy) : dy);
  }
  std::vector<at::Tensor> inputs = parameters_of(terms);
  inputs.push_back(x);
  const auto found = torch::autograd::grad(outputs, inputs, dys);
  if (below != nullptr) {
    *below = terms[1].weight->below(2 * kPadded);
  }
  return found;
}

TEST(LowRankLinear, GivesTheSameGradientsWhereverThoseOfItsOutputsLie) {
  for (const bool dora : {false, true}) {
    const auto expected = gradients(dora, /*with_rows=*/false, {false, false});
    for (const std::vector<bool>& in_place :
         {std::vector<bool>{true, true}, {true, false}, {false, true}, {false, false}}) {
      const auto found = gradients(dora, /*with_rows=*/true, in_place);
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_TRUE(at::equal(found[i], expected[i])) << dora << in_place[0] << in_place[1] << " " << i;
      }
    }
  }
}

TEST(LowRankLinear, PutsAllABelowTheLastWeightForTheGradientOfX) {
  at::Tensor below;
  gradients(/*dora=*/false, /*with_rows=*/true, {true, true}, &below);
  const std::vector<LowRankTerm> terms = stacked_terms();
  for (int64_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(at::equal(below.narrow(0, i * kPadded, kRank), terms[i].a.detach().to(at::kBFloat16)));
    EXPECT_EQ(below.narrow(0, i * kPadded + kRank, kPadded - kRank).count_nonzero().item<int64_t>(), 0);
  }
}

// Each form of the terms with rows and without.
TEST(LowRankLinear, GivesTheSameGradientsInRowsWhateverTrains) {
  struct Form {
    const char* name;
    int64_t rank;
    bool trains_a, trains_b, trains_x, bias;
  };
  for (const Form& form :
       {Form{"a rank without padding", 8, true, true, true, false},
        {"a frozen A", kRank, false, true, true, false},
        {"a frozen B", kRank, true, false, true, false},
        {"only x", kRank, false, false, true, false},
        {"a frozen x", kRank, true, true, false, false},
        {"biases", kRank, true, true, true, true}}) {
    const auto run = [&](bool with_rows) {
      at::manual_seed(8);
      const auto weights =
          weights_with_room({at::randn({16, kIn}).to(at::kBFloat16), at::randn({8, kIn}).to(at::kBFloat16)}, form.rank);
      const at::Tensor x = at::randn({kTokens, kIn}).to(at::kBFloat16).set_requires_grad(form.trains_x);
      std::vector<LowRankTerm> terms;
      std::vector<at::Tensor> inputs;
      const auto add_input = [&](const at::Tensor& each) {
        if (each.requires_grad()) {
          inputs.push_back(each);
        }
      };
      add_input(x);
      for (const auto& weight : weights) {
        LowRankTerm term;
        term.weight = weight;
        term.a = at::randn({form.rank, kIn}).set_requires_grad(form.trains_a);
        term.b = at::randn({weight->out_features(), form.rank}).set_requires_grad(form.trains_b);
        term.bias = form.bias ? at::randn({weight->out_features()}).set_requires_grad(true) : at::Tensor();
        add_input(term.a);
        add_input(term.b);
        if (form.bias) {
          add_input(term.bias);
        }
        terms.push_back(std::move(term));
      }
      const auto rows = with_rows ? detail::gradient_rows(terms, kFormOfGpu) : nullptr;
      EXPECT_EQ(rows != nullptr, with_rows);
      const auto outputs = detail::low_rank_linear_in(kFormOfGpu, x, terms, {}, rows);
      std::vector<at::Tensor> all;
      for (int pass = 0; pass < 2; ++pass) { // over one graph
        std::vector<at::Tensor> dys;
        for (size_t i = 0; i < outputs.size(); ++i) {
          const at::Tensor dy = at::randn(outputs[i].sizes()).to(at::kBFloat16);
          dys.push_back(with_rows ? GradientPlace{rows, i}.like(dy).copy_(dy) : dy);
        }
        for (at::Tensor& each : torch::autograd::grad(outputs, inputs, dys, /*retain_graph=*/true)) {
          all.push_back(std::move(each));
        }
        EXPECT_TRUE(!with_rows || rows->take().places.empty()) << "the node has taken them";
      }
      return all;
    };
    const auto found = run(true), expected = run(false);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_TRUE(at::equal(found[i], expected[i])) << form.name << " " << i;
    }
  }
}

// Both uses of an output give it a gradient, the first of which was put into its place.
TEST(LowRankLinear, AddsUpTheGradientsOfAnOutputThatIsReadTwice) {
  const auto run = [](bool with_rows) {
    const std::vector<LowRankTerm> terms = stacked_terms();
    const at::Tensor x = at::randn({kTokens, kIn}).to(at::kBFloat16).set_requires_grad(true);
    const at::Tensor states = at::randn({kTokens, 16}).to(at::kBFloat16), gamma = at::ones({16}).to(at::kBFloat16);
    const auto rows = with_rows ? detail::gradient_rows(terms, kFormOfGpu) : nullptr;
    const auto y = detail::low_rank_linear_in(kFormOfGpu, x, terms, {}, rows);
    const at::Tensor normed = std::get<1>(add_rms_norm(states, y[0], gamma, 1e-5, {rows, 0}));
    const at::Tensor loss = normed.square().sum() + y[0].square().sum() + y[1].square().sum();
    std::vector<at::Tensor> inputs = parameters_of(terms);
    inputs.push_back(x);
    return torch::autograd::grad({loss}, inputs);
  };
  const auto found = run(true), expected = run(false);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
  }
}

std::vector<at::Tensor> random_gradients() {
  return {at::randn({kTokens, 16}).to(at::kBFloat16), at::randn({kTokens, 8}).to(at::kBFloat16)};
}

TEST(JoinedGradients, TakeInTheLesserPartThatLiesElsewhere) {
  const std::vector<LowRankTerm> terms = stacked_terms();
  const auto rows = detail::gradient_rows(terms, kFormOfGpu);
  std::vector<at::Tensor> dys = random_gradients();
  const at::Tensor second = dys[1].clone();
  dys[0] = rows->place(0, kTokens, kOptions).copy_(dys[0]);
  const auto joined = detail::JoinedGradients::of(rows, terms, kFormOfGpu, dys);
  ASSERT_TRUE(joined.has_value());
  EXPECT_TRUE(dys[1].is_alias_of(dys[0]));
  EXPECT_TRUE(at::equal(dys[1], second));
  EXPECT_EQ(joined->shrunk().storage_offset(), 16 + 8);
  EXPECT_EQ(joined->shrunk().size(1), 2 * kPadded);
}

TEST(JoinedGradients, LeaveTheGreaterPartWhereItLies) {
  const std::vector<LowRankTerm> terms = stacked_terms();
  const auto rows = detail::gradient_rows(terms, kFormOfGpu);
  std::vector<at::Tensor> dys = random_gradients();
  dys[1] = rows->place(1, kTokens, kOptions).copy_(dys[1]);
  EXPECT_FALSE(detail::JoinedGradients::of(rows, terms, kFormOfGpu, dys).has_value());
  EXPECT_FALSE(detail::JoinedGradients::of(rows, terms, kFormOfGpu, dys).has_value()) << "nothing was written there";
  EXPECT_FALSE(detail::JoinedGradients::of(nullptr, terms, kFormOfGpu, dys).has_value());
}

// The sum of two gradients, of which the first was written into its place, is neither of them.
TEST(JoinedGradients, OverwriteNoPlaceThatSomebodyWasGiven) {
  const std::vector<LowRankTerm> terms = stacked_terms();
  const auto rows = detail::gradient_rows(terms, kFormOfGpu);
  std::vector<at::Tensor> dys = random_gradients();
  dys[0] = rows->place(0, kTokens, kOptions).copy_(dys[0]);
  const at::Tensor part = rows->place(1, kTokens, kOptions).copy_(dys[1]), before = part.clone();
  dys[1] = part + dys[1];
  EXPECT_FALSE(detail::JoinedGradients::of(rows, terms, kFormOfGpu, dys).has_value());
  EXPECT_TRUE(at::equal(part, before));
}

} // namespace
} // namespace rora::ops
