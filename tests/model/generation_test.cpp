#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>
#include <rora/model/pretrained.h>
#include <rora/model/generation.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

namespace rora {
namespace {

using Ids = std::vector<int64_t>;

DecoderForCausalLM small_vocabulary(int64_t vocab_size, uint64_t seed = 1) {
  return testing::tiny_llama(testing::tiny_llama_options().vocab_size(vocab_size), seed);
}

at::Tensor as_row(const Ids& ids) {
  return at::tensor(ids, at::kLong).unsqueeze(0);
}

/// The logits after `ids`, without a cache.
at::Tensor next_logits(CausalLM model, const Ids& ids) {
  at::NoGradGuard no_grad;
  return model->forward({as_row(ids), {}, {}}).select(1, -1).squeeze(0);
}

Ids greedy_without_cache(CausalLM model, Ids ids, int64_t count, int64_t stop = -1) {
  const size_t prompt = ids.size();
  for (int64_t i = 0; i < count && (i == 0 || ids.back() != stop); ++i) {
    ids.push_back(next_logits(model, ids).argmax().item<int64_t>());
  }
  return {ids.begin() + static_cast<int64_t>(prompt), ids.end()};
}

std::vector<double> probabilities(CausalLM model, const Ids& prompt, double temperature) {
  const at::Tensor p = (next_logits(model, prompt).to(at::kDouble) / temperature).softmax(-1).contiguous();
  return {p.const_data_ptr<double>(), p.const_data_ptr<double>() + p.numel()};
}

/// How often each token is drawn as the first after `prompt`.
std::vector<double> drawn_shares(CausalLM model, const Ids& prompt, int64_t draws, GenerationOptions options) {
  std::vector<double> shares(static_cast<size_t>(model->options.vocab_size()), 0.0);
  const std::vector<Ids> prompts(static_cast<size_t>(draws), prompt);
  for (const Ids& drawn : generate(model, prompts, options.max_new_tokens(1))) {
    shares[static_cast<size_t>(drawn.at(0))] += 1.0 / static_cast<double>(draws);
  }
  return shares;
}

/// Each share within five standard deviations of its probability.
void expect_drawn_by(const std::vector<double>& probability, const std::vector<double>& shares, int64_t draws) {
  for (size_t id = 0; id < shares.size(); ++id) {
    const double p = probability[id];
    EXPECT_NEAR(shares[id], p, 5.0 * std::sqrt(p * (1.0 - p) / static_cast<double>(draws)) + 1e-12) << "token " << id;
  }
}

/// `probability` with all but the tokens of `kept` at 0, and a sum of 1.
std::vector<double> renormalised(std::vector<double> probability, const std::vector<bool>& kept) {
  double sum = 0.0;
  for (size_t id = 0; id < probability.size(); ++id) {
    probability[id] = kept[id] ? probability[id] : 0.0;
    sum += probability[id];
  }
  for (double& each : probability) {
    each /= sum;
  }
  return probability;
}

TEST(KeyValueCaches, GiveTheLogitsOfAFullForwardPass) {
  auto model = testing::tiny_llama();
  at::NoGradGuard no_grad;
  const at::Tensor ids = at::randint(0, 32, {3, 12}, at::kLong);
  const at::Tensor full = model->forward({ids, {}, {}});
  KeyValueCache cache;
  std::vector<at::Tensor> pieces;
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {4, 5}, {5, 8}, {8, 9}, {9, 12}}) {
    pieces.push_back(model->forward({ids.slice(1, begin, end), {}, {}}, &cache));
    EXPECT_EQ(cache.size(), end);
  }
  EXPECT_TRUE(at::allclose(at::cat(pieces, 1), full, 1e-5, 1e-5));
}

TEST(KeyValueCaches, SelectRows) {
  auto model = testing::tiny_llama();
  at::NoGradGuard no_grad;
  const at::Tensor ids = at::randint(0, 32, {3, 7}, at::kLong);
  const at::Tensor rows = at::tensor({2, 0, 2, 1}, at::kLong);
  KeyValueCache cache;
  model->forward({ids.slice(1, 0, 6), {}, {}}, &cache);
  cache.select(rows);
  const at::Tensor last = ids.slice(1, 6).index_select(0, rows);
  const at::Tensor full = model->forward({ids, {}, {}}).slice(1, 6).index_select(0, rows);
  EXPECT_TRUE(at::allclose(model->forward({last, {}, {}}, &cache), full, 1e-5, 1e-5));
}

TEST(Generation, EqualsRecomputingAllAtEachStep) {
  auto model = testing::tiny_llama();
  const Ids prompt{1, 5, 9, 2};
  EXPECT_EQ(
      generate(model, {prompt}, GenerationOptions().max_new_tokens(20))[0], greedy_without_cache(model, prompt, 20));
}

TEST(Generation, OfAPaddedBatchEqualsThatOfEachPromptAlone) {
  auto model = testing::tiny_llama();
  const std::vector<Ids> prompts{{3}, {1, 5, 9, 2, 7, 30, 11}, {4, 8, 15}, {16, 23, 4}};
  // The stop token ends some rows early: those that go on must not notice.
  const int64_t stop = greedy_without_cache(model, prompts[2], 6).back();
  for (const int64_t beams : {1, 3}) {
    const auto options = GenerationOptions().max_new_tokens(16).num_beams(beams).stop_token_ids({stop});
    const auto together = generate(model, prompts, options);
    ASSERT_EQ(together.size(), prompts.size());
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(together[i], generate(model, {prompts[i]}, options)[0]) << beams << " beams, prompt " << i;
    }
    if (beams == 1) {
      EXPECT_EQ(together[2], greedy_without_cache(model, prompts[2], 16, stop));
    }
  }
}

TEST(Generation, EndsWithTheStopToken) {
  auto model = testing::tiny_llama();
  const Ids prompt{1, 5, 9, 2};
  const Ids endless = generate(model, {prompt}, GenerationOptions().max_new_tokens(20))[0];
  const Ids stops{endless[9], endless[5]};
  const auto end = std::find_first_of(endless.begin(), endless.end(), stops.begin(), stops.end());
  const Ids expected(endless.begin(), end + 1);
  EXPECT_EQ(generate(model, {prompt}, GenerationOptions().max_new_tokens(20).stop_token_ids(stops))[0], expected);

  model->options.eos_token_id(stops);
  EXPECT_EQ(generate(model, {prompt}, GenerationOptions().max_new_tokens(20))[0], expected);
  EXPECT_EQ(generate(model, {prompt}, GenerationOptions().max_new_tokens(20).stop_token_ids({-1}))[0], endless);
}

TEST(Generation, OfNoTokensIsEmpty) {
  auto model = testing::tiny_llama();
  for (const int64_t beams : {1, 2}) {
    const auto options = GenerationOptions().max_new_tokens(0).num_beams(beams);
    EXPECT_EQ(generate(model, {{1}, {2, 3}}, options), (std::vector<Ids>{{}, {}}));
    EXPECT_TRUE(generate(model, {}, GenerationOptions().num_beams(beams)).empty());
  }
}

TEST(Generation, ReportsTokensAsTheyAreChosen) {
  auto model = testing::tiny_llama();
  const std::vector<Ids> prompts{{1, 2, 3}, {4}};
  const int64_t stop = greedy_without_cache(model, prompts[1], 3).back();
  std::vector<Ids> reported(2);
  const auto result = generate(
      model, prompts, GenerationOptions().max_new_tokens(8).stop_token_ids({stop}),
      [&](int64_t row, int64_t id) { reported.at(row).push_back(id); });
  EXPECT_EQ(reported, result);
}

TEST(Generation, LeavesTheModelInItsMode) {
  auto model = testing::tiny_llama();
  model->train();
  generate(model, {{1}}, GenerationOptions().max_new_tokens(1));
  EXPECT_TRUE(model->is_training());
  const auto interrupt = [](int64_t, int64_t) { throw std::runtime_error("interrupted"); };
  EXPECT_THROW(generate(model, {{1}}, GenerationOptions().max_new_tokens(1), interrupt), std::runtime_error);
  EXPECT_TRUE(model->is_training());
  EXPECT_TRUE(model->model->is_training());
}

TEST(Generation, RefusesWhatItCannotDo) {
  auto model = testing::tiny_llama();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(generate(model, {{1}, {}}), c10::ValueError);
  EXPECT_THROW(generate(model, {{1, 32}}), c10::ValueError);
  EXPECT_THROW(generate(model, {{-1}}), c10::ValueError);
  for (const auto& options :
       {GenerationOptions().max_new_tokens(-1), GenerationOptions().temperature(-0.1),
        GenerationOptions().temperature(nan), GenerationOptions().top_k(-1), GenerationOptions().top_p(0.0),
        GenerationOptions().top_p(1.1), GenerationOptions().top_p(nan), GenerationOptions().num_beams(0),
        GenerationOptions().num_beams(2).temperature(1.0), GenerationOptions().length_penalty(nan)}) {
    EXPECT_THROW(generate(model, {{1}}, options), c10::ValueError);
  }
}

TEST(Generation, ThrowsForLogitsThatAreNotFinite) {
  auto model = testing::tiny_llama();
  at::NoGradGuard no_grad;
  model->lm_head->weight.fill_(3e38); // each is finite, their products are not
  for (const auto& options :
       {GenerationOptions(), GenerationOptions().temperature(1.0), GenerationOptions().num_beams(2)}) {
    EXPECT_THROW(generate(model, {{1, 2}}, options), std::runtime_error);
  }
}

TEST(Generation, EqualsThatOfTransformers) {
  auto model = load_model(testing::test_data("generation/model"));
  const auto stored = nlohmann::json::parse(read_file(testing::test_data("generation/answers.json")));
  const auto prompts = stored["prompts"].get<std::vector<Ids>>();
  EXPECT_GE(stored["answers"].size(), 9u);
  for (const auto& answer : stored["answers"]) {
    const auto options = GenerationOptions()
                             .num_beams(answer["num_beams"])
                             .length_penalty(answer["length_penalty"])
                             .max_new_tokens(answer["max_new_tokens"])
                             .stop_token_ids(answer["stop_token_ids"].get<Ids>());
    EXPECT_EQ(generate(model, prompts, options), answer["continuations"].get<std::vector<Ids>>())
        << answer["num_beams"] << " beams, length penalty " << answer["length_penalty"];
  }
}

TEST(StopTokens, AreThoseOfTheGenerationConfigElseOfTheConfig) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(read_stop_token_ids(folder.path()).empty());
  write_file(folder / "config.json", R"({"eos_token_id": null})");
  EXPECT_TRUE(read_stop_token_ids(folder.path()).empty());
  write_file(folder / "config.json", "{}");
  EXPECT_EQ(read_stop_token_ids(folder.path()), Ids{2}) << "transformers' default";
  write_file(folder / "config.json", R"({"eos_token_id": 3})");
  EXPECT_EQ(read_stop_token_ids(folder.path()), Ids{3});
  write_file(folder / "generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(read_stop_token_ids(folder.path()), Ids{3});
  write_file(folder / "generation_config.json", R"({"eos_token_id": [7, 8]})");
  EXPECT_EQ(read_stop_token_ids(folder.path()), (Ids{7, 8}));
  write_file(folder / "generation_config.json", R"({"eos_token_id": [-1, 8]})");
  EXPECT_EQ(read_stop_token_ids(folder.path()), Ids{8});
  write_file(folder / "generation_config.json", R"({"eos_token_id": -1})");
  EXPECT_EQ(read_stop_token_ids(folder.path()), Ids{3});
  write_file(folder / "generation_config.json", R"({"eos_token_id": "</s>"})");
  EXPECT_THROW(read_stop_token_ids(folder.path()), FormatError);
}

TEST(FieldsNotFollowed, AreThoseThatAskForSomething) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(fields_not_followed(folder.path()).empty());
  write_file(
      folder / "generation_config.json",
      R"({"eos_token_id": 2, "do_sample": true, "temperature": 0.6, "repetition_penalty": 1, "no_repeat_ngram_size": 0,
          "suppress_tokens": [], "stop_strings": null})");
  EXPECT_TRUE(fields_not_followed(folder.path()).empty());
  write_file(
      folder / "generation_config.json",
      R"({"repetition_penalty": 1.1, "suppress_tokens": [7], "stop_strings": "Paris", "forced_bos_token_id": 0})");
  EXPECT_THAT(
      fields_not_followed(folder.path()),
      ::testing::ElementsAre("repetition_penalty", "suppress_tokens", "forced_bos_token_id", "stop_strings"));
}

TEST(Sampling, FollowsFromTheSeed) {
  auto model = testing::tiny_llama();
  const std::vector<Ids> prompts{{1, 2, 3}, {4, 5}};
  const auto options = GenerationOptions().max_new_tokens(24).temperature(1.0);
  const auto first = generate(model, prompts, GenerationOptions(options).seed(7));
  at::manual_seed(99); // not of LibTorch's own generator
  EXPECT_EQ(generate(model, prompts, GenerationOptions(options).seed(7)), first);
  EXPECT_NE(generate(model, prompts, GenerationOptions(options).seed(8)), first);
}

TEST(Sampling, DrawsByTheSoftmaxOfTheLogits) {
  auto model = small_vocabulary(6);
  const Ids prompt{1, 4, 2};
  constexpr int64_t kDraws = 4000;
  for (const double temperature : {0.5, 1.0, 3.0}) {
    expect_drawn_by(
        probabilities(model, prompt, temperature),
        drawn_shares(model, prompt, kDraws, GenerationOptions().temperature(temperature).seed(3)), kDraws);
  }
}

TEST(Sampling, NearTemperatureZeroIsGreedy) {
  auto model = testing::tiny_llama();
  const Ids expected = greedy_without_cache(model, {1, 2, 3}, 10);
  for (const double temperature : {1e-6, 1e-40, 1e-300}) {
    const auto options = GenerationOptions().max_new_tokens(10).temperature(temperature).top_p(0.9);
    EXPECT_EQ(generate(model, {{1, 2, 3}}, options)[0], expected) << temperature;
  }
}

TEST(Sampling, FromTheTopKDrawsNothingElse) {
  auto model = small_vocabulary(8);
  const Ids prompt{1, 4, 2};
  constexpr int64_t kDraws = 4000;
  const std::vector<double> all = probabilities(model, prompt, 1.0);
  std::vector<double> sorted = all;
  std::sort(sorted.rbegin(), sorted.rend());
  for (const int64_t top_k : {1, 3, 8, 100}) {
    std::vector<bool> kept;
    for (const double p : all) {
      kept.push_back(top_k >= 8 || p >= sorted[static_cast<size_t>(top_k) - 1]);
    }
    expect_drawn_by(
        renormalised(all, kept),
        drawn_shares(model, prompt, kDraws, GenerationOptions().temperature(1.0).top_k(top_k).seed(5)), kDraws);
  }
}

TEST(Sampling, FromTheNucleusKeepsTheFewestTokensThatReachTopP) {
  auto model = small_vocabulary(8);
  const Ids prompt{1, 4, 2};
  constexpr int64_t kDraws = 4000;
  const std::vector<double> all = probabilities(model, prompt, 1.0);
  std::vector<size_t> order(all.size());
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return all[a] > all[b]; });
  for (const size_t fewest : {size_t{1}, size_t{3}, size_t{5}}) {
    double before = 0.0; // what the fewest but one sum up to
    for (size_t i = 0; i + 1 < fewest; ++i) {
      before += all[order[i]];
    }
    std::vector<bool> kept(all.size(), false);
    for (size_t i = 0; i < fewest; ++i) {
      kept[order[i]] = true;
    }
    const double top_p = before + 0.5 * all[order[fewest - 1]];
    expect_drawn_by(
        renormalised(all, kept),
        drawn_shares(model, prompt, kDraws, GenerationOptions().temperature(1.0).top_p(top_p).seed(11)), kDraws);
  }
}

/// The continuation of at most `length` tokens with the greatest log-likelihood / length^penalty, of all there are.
struct BestContinuation {
  CausalLM model;
  int64_t length;
  int64_t stop;
  double penalty;
  double score = -std::numeric_limits<double>::infinity();
  Ids tokens = {};

  void search(const Ids& prompt, const Ids& continuation = {}, double log_likelihood = 0.0) {
    const auto count = static_cast<int64_t>(continuation.size());
    if (count > 0 && (count == length || continuation.back() == stop)) {
      const double own = log_likelihood / std::pow(static_cast<double>(count), penalty);
      if (own > score) {
        score = own;
        tokens = continuation;
      }
      return;
    }
    Ids whole = prompt;
    whole.insert(whole.end(), continuation.begin(), continuation.end());
    const at::Tensor log_probabilities = next_logits(model, whole).log_softmax(-1);
    for (int64_t id = 0; id < log_probabilities.size(0); ++id) {
      Ids longer = continuation;
      longer.push_back(id);
      search(prompt, longer, log_likelihood + log_probabilities[id].item<double>());
    }
  }
};

TEST(BeamSearch, ThatIsWideEnoughFindsTheBestOfAllContinuations) {
  constexpr int64_t kVocab = 4;
  constexpr int64_t kLength = 3;
  int64_t unlike_greedy = 0;
  int64_t ended_early = 0;
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    auto model = small_vocabulary(kVocab, seed);
    for (const double penalty : {0.0, 1.0, 2.0}) {
      const Ids prompt{static_cast<int64_t>(seed % kVocab), 1, 2};
      const int64_t stop = 3;
      BestContinuation best{model, kLength, stop, penalty};
      best.search(prompt);
      const auto options = GenerationOptions().max_new_tokens(kLength).stop_token_ids({stop});
      EXPECT_EQ(
          generate(model, {prompt}, GenerationOptions(options).num_beams(64).length_penalty(penalty))[0], best.tokens)
          << "seed " << seed << ", penalty " << penalty;
      unlike_greedy += best.tokens != generate(model, {prompt}, options)[0] ? 1 : 0;
      ended_early += best.tokens.size() < kLength ? 1 : 0;
    }
  }
  EXPECT_GT(unlike_greedy, 0); // or the test would pass a greedy search
  EXPECT_GT(ended_early, 0);
}

TEST(BeamSearch, OfOneTokenIsGreedy) {
  auto model = testing::tiny_llama();
  for (const int64_t id : {1, 2, 3, 4}) {
    EXPECT_EQ(
        generate(model, {{id}}, GenerationOptions().max_new_tokens(1).num_beams(4)),
        generate(model, {{id}}, GenerationOptions().max_new_tokens(1)));
  }
}

TEST(BeamSearch, WithMoreBeamsThanTokensGoesOn) {
  auto model = small_vocabulary(2);
  const auto found = generate(model, {{0, 1}}, GenerationOptions().max_new_tokens(6).num_beams(5).stop_token_ids({1}));
  EXPECT_LE(found[0].size(), 6u);
  EXPECT_FALSE(found[0].empty());
  const auto all_stop =
      generate(model, {{0}}, GenerationOptions().max_new_tokens(6).num_beams(3).stop_token_ids({0, 1}));
  EXPECT_EQ(all_stop[0], greedy_without_cache(model, {0}, 1));
}

} // namespace
} // namespace rora
