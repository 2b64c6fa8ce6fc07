#include <rora/adapters/combine.h>

#include "adapters/low_rank_support.h"

#include <rora/error.h>

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

namespace rora::testing {
namespace {

using ::testing::HasSubstr;

const std::string kFirstQ = "model.layers.0.self_attn.q_proj";
const std::string kLastDown = "model.layers.1.mlp.down_proj";

LowRankOptions rora(int64_t rank) {
  return LowRankOptions().rank(rank).alpha(3.0 * static_cast<double>(rank));
}

LowRankOptions lora(int64_t rank) {
  return rora(rank).scaling(Scaling::kStandard);
}

DenseChanges weighted_sum(const std::vector<LowRankFolder>& adapters, const std::vector<double>& weights) {
  DenseChanges sum;
  for (size_t i = 0; i < adapters.size(); ++i) {
    for (const auto& [module, change] : dense(adapters[i])) {
      const auto [found, added] = sum.emplace(module, change * weights[i]);
      if (!added) {
        found->second = found->second + change * weights[i];
      }
    }
  }
  return sum;
}

/// Adapters of the same weights that differ in all that a folder may say.
std::vector<LowRankFolder> mixed(const TemporaryFolder& folder) {
  return {
      make_folder(folder / "patterns", with_patterns(rora(3)), 1),
      make_folder(folder / "lora", AdapterOptions().low_rank(lora(4)), 2),
      make_folder(folder / "a_layer", AdapterOptions().low_rank(rora(6)).layers_to_transform({1}), 3),
      make_folder(
          folder / "off", AdapterOptions().low_rank(lora(2).alpha(0)).alpha_pattern({{"v_proj", -1.5}, {"o_proj", 7}}),
          4)};
}

TEST(Combine, AnAdapterMinusItselfIsNothingAtAll) {
  const TemporaryFolder folder;
  const LowRankFolder one = make_folder(folder / "one", with_patterns(rora(3)));
  const CombinedAdapter sum = combine_adapters({one, one}, {1.0, -1.0});
  for (const auto& [module, change] : sum.adapter.modules) {
    EXPECT_EQ(dense(change).abs().max().item<double>(), 0.0) << module;
    EXPECT_EQ(change.rank(), one.modules.at(module).rank()) << module;
  }
  save_low_rank_folder(sum.adapter, folder / "sum");
  EXPECT_TRUE(at::equal(logits_with(folder / "sum"), logits_of(tiny_llama())));
}

TEST(Combine, OneAdapterWithWeightOneHasTheSameBytes) {
  const TemporaryFolder folder;
  for (const AdapterOptions& options :
       {with_patterns(rora(3)), AdapterOptions().low_rank(lora(4)),
        AdapterOptions()
            .low_rank(lora(4))
            .exclude_modules(std::vector<std::string>{"k_proj"})
            .layers_to_transform({1})}) {
    const LowRankFolder one = make_folder(folder / "one", options);
    const CombinedAdapter sum = combine_adapters({one}, {1.0});
    EXPECT_EQ(save_low_rank_folder(sum.adapter, folder / "sum").overall, 0.0);
    EXPECT_EQ(sum.shared_a + sum.shared_b + sum.side_by_side, 0);
    expect_same_bytes(folder / "sum", folder / "one");
  }
}

TEST(Combine, TheChangeIsTheDenseSumForMixesOfScalingsRanksAndPatterns) {
  const TemporaryFolder folder;
  const std::vector<LowRankFolder> adapters = mixed(folder);
  const std::vector<double> weights{0.5, -1.0, 2.25, 0.3};
  const DenseChanges expected = weighted_sum(adapters, weights);
  const CombinedAdapter sum = combine_adapters(adapters, weights);
  EXPECT_EQ(sum.side_by_side, 14);
  expect_near(dense(sum.adapter), expected, 1e-14);
  auto model = tiny_llama();
  {
    at::NoGradGuard no_grad;
    for (const auto& [module, change] : expected) {
      model->named_modules()[module]->as<ProjectionImpl>()->weight.add_(change.to(at::kFloat));
    }
  }
  for (const Scaling scaling : {Scaling::kStandard, Scaling::kRankStabilized}) {
    const ChangeError error = save_low_rank_folder(sum.adapter, folder / "sum", SaveLowRankOptions().scaling(scaling));
    EXPECT_LT(error.largest, 0x1p-23);
    const LowRankFolder read = read_low_rank_folder(folder / "sum");
    EXPECT_EQ(read.options.low_rank().scaling(), scaling);
    EXPECT_EQ(read.modules.at(kLastDown).rank(), 5 + 4 + 6);
    expect_near(dense(read), expected, 1e-6);
    EXPECT_LE(relative_error(logits_with(folder / "sum"), logits_of(model)), 1e-5);
  }
}

TEST(Combine, ALoadedSumIsSavedWithTheSameBytes) {
  const TemporaryFolder folder;
  const std::vector<LowRankFolder> adapters = mixed(folder);
  for (const bool uniform : {false, true}) {
    save_low_rank_folder(
        combine_adapters(adapters, {1, 1, 1, 1}).adapter, folder / "sum", SaveLowRankOptions().uniform(uniform));
    auto model = tiny_llama();
    load_adapter(*model, folder / "sum");
    save_adapter(*model, folder / "again", SaveAdapterOptions().base_model("tiny"));
    expect_same_bytes(folder / "again", folder / "sum");
  }
}

TEST(Combine, AModuleThatSomeLackIsTheOthersAndKeepsItsRank) {
  const TemporaryFolder folder;
  const auto of = [&](const std::string& name, const std::string& target, const LowRankOptions& options) {
    return make_folder(
        folder / name, AdapterOptions().low_rank(options).target_modules(std::vector<std::string>{target}));
  };
  const LowRankFolder q = of("q", "q_proj", rora(3)), down = of("down", "down_proj", lora(5));
  save_low_rank_folder(combine_adapters({q, down}, {1.0, 1.0}).adapter, folder / "sum");
  const LowRankFolder sum = read_low_rank_folder(folder / "sum");
  EXPECT_EQ(sum.modules.size(), 4);
  EXPECT_EQ(config_of(folder / "sum")["rank_pattern"].dump(), R"({"q_proj":3})");
  EXPECT_EQ(sum.options.target_modules().names.size(), 4) << "by their whole names";
  for (const LowRankFolder& each : {q, down}) {
    for (const auto& [module, change] : each.modules) {
      EXPECT_TRUE(at::equal(sum.modules.at(module).a, change.a)) << module;
      EXPECT_TRUE(at::equal(sum.modules.at(module).b, change.b)) << module;
      EXPECT_NEAR(sum.modules.at(module).scale, change.scale, 1e-14) << module;
    }
  }
  EXPECT_EQ(logits_with(folder / "sum").sizes(), logits_of(tiny_llama()).sizes());
}

TEST(Combine, AdaptersThatShareAFactorKeepTheirRank) {
  const TemporaryFolder folder;
  const LowRankFolder one = make_folder(folder / "one", with_patterns(rora(3)), 1);
  for (const bool shares_a : {true, false}) {
    LowRankFolder other = make_folder(folder / "other", with_patterns(lora(3)), 2);
    for (auto& [module, change] : other.modules) {
      (shares_a ? change.a : change.b) = shares_a ? one.modules.at(module).a : one.modules.at(module).b;
    }
    const CombinedAdapter sum = combine_adapters({one, other}, {0.25, 0.75});
    EXPECT_EQ(shares_a ? sum.shared_a : sum.shared_b, 14);
    EXPECT_EQ(sum.side_by_side, 0);
    expect_near(dense(sum.adapter), weighted_sum({one, other}, {0.25, 0.75}), 1e-14);
    for (const auto& [module, change] : sum.adapter.modules) {
      EXPECT_EQ(change.rank(), one.modules.at(module).rank()) << module;
      EXPECT_EQ(change.scale, one.modules.at(module).scale) << "a client goes on at its own scale: " << module;
    }
  }
}

TEST(Combine, TheAverageOfClientsThatShareAAtOneScaleIsTheMeanOfTheirB) {
  const TemporaryFolder folder;
  std::vector<LowRankFolder> clients;
  for (const int64_t seed : {1, 2, 3}) {
    clients.push_back(
        make_folder(folder / ("client" + std::to_string(seed)), AdapterOptions().low_rank(rora(4)), seed));
    for (auto& [module, change] : clients.back().modules) {
      change.a = clients.front().modules.at(module).a;
    }
  }
  const double third = 1.0 / 3.0;
  save_low_rank_folder(combine_adapters(clients, {third, third, third}).adapter, folder / "mean");
  const LowRankFolder mean = read_low_rank_folder(folder / "mean");
  for (const auto& [module, change] : mean.modules) {
    at::Tensor sum = at::zeros_like(change.b, at::kDouble);
    for (const LowRankFolder& client : clients) {
      sum += client.modules.at(module).b;
    }
    EXPECT_TRUE(at::equal(change.a, clients.front().modules.at(module).a)) << module;
    EXPECT_TRUE(at::equal(change.b, (sum / 3.0).to(at::kFloat))) << module;
  }
  EXPECT_EQ(config_of(folder / "mean"), config_of(folder / "client1"));
}

TEST(Combine, OfThreeThatShareInPartTheRestStandsBesideThem) {
  const TemporaryFolder folder;
  std::vector<LowRankFolder> adapters;
  for (const int64_t seed : {1, 2, 3}) {
    adapters.push_back(make_folder(folder / std::to_string(seed), AdapterOptions().low_rank(rora(4)), seed));
  }
  for (auto& [module, change] : adapters[2].modules) {
    change.a = adapters[0].modules.at(module).a;
  }
  const CombinedAdapter sum = combine_adapters(adapters, {1.0, 0.1, -0.7});
  EXPECT_EQ(sum.side_by_side, 14);
  EXPECT_EQ(sum.adapter.modules.at(kFirstQ).rank(), 8);
  expect_near(dense(sum.adapter), weighted_sum(adapters, {1.0, 0.1, -0.7}), 1e-14);
}

TEST(Combine, AWeightOfZeroLeavesItsAdapterOut) {
  const TemporaryFolder folder;
  const LowRankFolder one = make_folder(folder / "one", AdapterOptions().low_rank(rora(4)), 1);
  const LowRankFolder other = make_folder(folder / "other", AdapterOptions().low_rank(rora(4)), 2);
  save_low_rank_folder(combine_adapters({one, other}, {1.0, 0.0}).adapter, folder / "sum");
  expect_same_bytes(folder / "sum", folder / "one");
  const CombinedAdapter nothing = combine_adapters({one, other}, {0.0, 0.0});
  EXPECT_EQ(dense(nothing.adapter.modules.at(kFirstQ)).abs().max().item<double>(), 0.0);
}

TEST(Combine, RefusesWhatHasNoSum) {
  const TemporaryFolder folder;
  const LowRankFolder plain = make_folder(folder / "plain", AdapterOptions().low_rank(rora(2)));
  const auto refusal = [&](const LowRankFolder& other, const std::vector<double>& weights = {1.0, 1.0}) -> std::string {
    try {
      combine_adapters({plain, other}, weights);
    } catch (const c10::ValueError& error) {
      return error.what_without_backtrace();
    } catch (const FormatError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  EXPECT_EQ(refusal(plain), "nothing was thrown");
  EXPECT_EQ(refusal(plain, {1.0}), "1 weights are given for 2 adapters");
  EXPECT_EQ(refusal(plain, {1.0, std::numeric_limits<double>::quiet_NaN()}), "a weight must be finite, not nan");
  EXPECT_THROW(combine_adapters({}, {}), c10::ValueError);
  EXPECT_THAT(
      refusal(make_folder(folder / "dora", AdapterOptions().low_rank(rora(2).dora(true)))),
      HasSubstr("dora/adapter_config.json: use_dora: DoRA adapters have no low-rank sum"));
  EXPECT_THAT(
      refusal(make_folder(folder / "head", AdapterOptions().low_rank(rora(2)).modules_to_save({"lm_head"}))),
      HasSubstr("head/adapter_config.json: modules_to_save: "));
  EXPECT_THAT(
      refusal(make_folder(
          folder / "tokens", AdapterOptions().low_rank(rora(2)).trainable_token_indices({{"embed_tokens", {3}}}))),
      HasSubstr("tokens/adapter_config.json: trainable_token_indices: "));
  LowRankFolder wider = plain;
  wider.modules.at(kFirstQ).a = at::zeros({2, 17});
  EXPECT_THAT(
      refusal(wider), HasSubstr(kFirstQ + " changes a weight of [16, 17], and in another adapter one of [16, 16]"));
}

TEST(ReduceRank, LeavesOutWhatTheDenseDecompositionsCutLeavesOut) {
  const TemporaryFolder folder;
  const CombinedAdapter sum = combine_adapters(mixed(folder), {0.5, -1.0, 2.25, 0.3});
  for (const int64_t rank : {1, 3, 7}) {
    LowRankFolder reduced = sum.adapter;
    const ChangeError error = reduce_rank(reduced, rank);
    double largest = 0.0, left_out = 0.0, all = 0.0;
    for (const auto& [module, change] : sum.adapter.modules) {
      const at::Tensor before = dense(change), after = dense(reduced.modules.at(module));
      const at::Tensor squares = at::linalg_svdvals(before).square();
      const double tail = squares.slice(0, rank).sum().item<double>();
      EXPECT_EQ(reduced.modules.at(module).rank(), std::min(rank, change.rank())) << module;
      EXPECT_EQ(reduced.modules.at(module).scale, change.scale) << module;
      EXPECT_NEAR((after - before).norm().item<double>(), std::sqrt(tail), 1e-10) << module;
      largest = std::max(largest, std::sqrt(tail / squares.sum().item<double>()));
      left_out += tail;
      all += squares.sum().item<double>();
    }
    EXPECT_NEAR(error.largest, largest, 1e-12);
    EXPECT_NEAR(error.overall, std::sqrt(left_out / all), 1e-12);
    LowRankFolder again = reduced;
    EXPECT_EQ(reduce_rank(again, rank).overall, 0.0);
    for (const auto& [module, change] : again.modules) {
      EXPECT_TRUE(at::equal(change.a, reduced.modules.at(module).a)) << module;
      EXPECT_TRUE(at::equal(change.b, reduced.modules.at(module).b)) << module;
    }
    // A saved one, whose values are rounded, is cut to the same rank without a further error.
    save_low_rank_folder(reduced, folder / "reduced");
    LowRankFolder read = read_low_rank_folder(folder / "reduced");
    expect_near(dense(read), dense(reduced), 1e-6);
    EXPECT_EQ(reduce_rank(read, rank).overall, 0.0);
  }
}

TEST(ReduceRank, OfAnAdapterBesideItselfFindsTheOneAgain) {
  const TemporaryFolder folder;
  const LowRankFolder one = make_folder(folder / "one", AdapterOptions().low_rank(rora(3)));
  LowRankFolder twice = one;
  for (auto& [module, change] : twice.modules) {
    change.a = at::cat({change.a, change.a});
    change.b = at::cat({change.b, change.b * 0.5}, 1);
  }
  EXPECT_LT(reduce_rank(twice, 3).largest, 1e-7) << "of rank 6 that is one of 3";
  for (const auto& [module, change] : one.modules) {
    EXPECT_LE(relative_error(dense(twice.modules.at(module)), dense(change) * 1.5), 1e-6) << module;
  }
}

TEST(ReduceRank, AHigherRankChangesNothingAndOneOverTheWeightsSizesIsExact) {
  const TemporaryFolder folder;
  const LowRankFolder wide = make_folder(
      folder / "wide", AdapterOptions().low_rank(rora(40)).target_modules(std::vector<std::string>{"k_proj"}));
  LowRankFolder same = wide;
  EXPECT_EQ(reduce_rank(same, 40).largest, 0.0);
  EXPECT_TRUE(at::equal(same.modules.begin()->second.a, wide.modules.begin()->second.a));
  for (const int64_t rank : {8, 30}) { // of weights of 8 × 16
    LowRankFolder reduced = wide;
    EXPECT_LT(reduce_rank(reduced, rank).largest, 1e-14);
    EXPECT_EQ(reduced.modules.begin()->second.rank(), rank);
    expect_near(dense(reduced), dense(wide), 1e-14);
  }
}

TEST(ReduceRank, CutsNoDoRAAndNoRankBelowOne) {
  const TemporaryFolder folder;
  LowRankFolder dora = make_folder(folder / "dora", AdapterOptions().low_rank(rora(2).dora(true)));
  EXPECT_THAT(
      [&] { reduce_rank(dora, 1); }, ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("rank 2 cannot be cut to 1")));
  EXPECT_EQ(reduce_rank(dora, 2).largest, 0.0);
  EXPECT_THROW(reduce_rank(dora, 0), c10::ValueError);
  EXPECT_THROW(pad_rank(dora, 0), c10::ValueError);
}

TEST(TakeRanks, AreTheFirstAtTheSameAlpha) {
  const TemporaryFolder folder;
  for (const LowRankOptions& options : {rora(6), lora(6)}) {
    const LowRankFolder all = make_folder(
        folder / "all",
        AdapterOptions().low_rank(options).rank_pattern({{"k_proj", 2}}).alpha_pattern({{"v_proj", 5}}));
    LowRankFolder first = all;
    take_ranks(first, 4);
    save_low_rank_folder(first, folder / "first");
    const auto config = config_of(folder / "first");
    EXPECT_EQ(config["r"], 4);
    EXPECT_EQ(config["lora_alpha"], 18);
    const LowRankFolder read = read_low_rank_folder(folder / "first");
    for (const auto& [module, change] : all.modules) {
      const LowRankOptions own = all.options.for_module(module);
      const int64_t rank = std::min<int64_t>(4, own.rank());
      const LowRankChange& found = read.modules.at(module);
      EXPECT_TRUE(at::equal(found.a, change.a.narrow(0, 0, rank))) << module;
      EXPECT_TRUE(at::equal(found.b, change.b.narrow(1, 0, rank))) << module;
      EXPECT_NEAR(found.scale, scaling_factor(own.scaling(), own.alpha(), rank), 1e-14 * found.scale) << module;
    }
  }
}

TEST(TakeRanks, RefusesDoRAAndACountBelowOne) {
  const TemporaryFolder folder;
  LowRankFolder dora = make_folder(folder / "dora", AdapterOptions().low_rank(rora(2).dora(true)));
  EXPECT_THAT([&] { take_ranks(dora, 1); }, ::testing::ThrowsMessage<c10::ValueError>(HasSubstr("with DoRA")));
  take_ranks(dora, 2);
  EXPECT_THROW(take_ranks(dora, 0), c10::ValueError);
}

TEST(PadRank, KeepsChangesAndScalesOfDoRAToo) {
  const TemporaryFolder folder;
  for (const bool dora : {false, true}) {
    LowRankFolder padded = make_folder(folder / "one", with_patterns(rora(3).dora(dora)));
    const DenseChanges before = dense(padded);
    pad_rank(padded, 9);
    expect_near(dense(padded), before, 0.0);
    save_low_rank_folder(padded, folder / "padded");
    EXPECT_EQ(config_of(folder / "padded")["r"], 9);
    EXPECT_EQ(config_of(folder / "padded")["rank_pattern"].dump(), "{}");
    EXPECT_LE(relative_error(logits_with(folder / "padded"), logits_with(folder / "one")), 1e-6);
  }
}

} // namespace
} // namespace rora::testing
