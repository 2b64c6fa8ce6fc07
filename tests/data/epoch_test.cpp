#include <rora/data/batch.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>
#include <vector>

namespace rora {
namespace {

using ::testing::ElementsAre;

/// Lengths from 1 to 61, in no order.
std::vector<Example> make_examples(int64_t count) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<int64_t> ids(static_cast<size_t>(1 + i * 37 % 61), i);
    examples.push_back({ids, ids});
  }
  return examples;
}

std::vector<Example> of_lengths(const std::vector<int64_t>& lengths) {
  std::vector<Example> examples;
  for (const int64_t length : lengths) {
    const std::vector<int64_t> ids(static_cast<size_t>(length), 1);
    examples.push_back({ids, ids});
  }
  return examples;
}

BatchOptions make_options(bool shuffle, bool packing, int64_t batch_size = 4, uint64_t seed = 7) {
  BatchOptions options;
  options.batch_size(batch_size);
  options.packing(packing);
  options.max_length(64);
  options.shuffle(shuffle);
  options.seed(seed);
  return options;
}

std::vector<int64_t> flat(const BatchPlan& plan) {
  std::vector<int64_t> indices;
  for (const auto& batch : plan) {
    for (const auto& row : batch) {
      indices.insert(indices.end(), row.begin(), row.end());
    }
  }
  return indices;
}

int64_t row_length(const std::vector<Example>& examples, const std::vector<int64_t>& row) {
  int64_t length = 0;
  for (const int64_t index : row) {
    length += static_cast<int64_t>(examples[index].input_ids.size());
  }
  return length;
}

struct Mode {
  bool shuffle;
  bool packing;
};

class Epoch : public ::testing::TestWithParam<Mode> {};

INSTANTIATE_TEST_SUITE_P(
    Modes, Epoch, ::testing::Values(Mode{false, false}, Mode{true, false}, Mode{false, true}, Mode{true, true}));

TEST_P(Epoch, HasEachExampleOnceInBatchesOfTheSizeAskedFor) {
  for (const int64_t count : {0, 1, 3, 4, 5, 403, 1500}) {
    const auto examples = make_examples(count);
    const auto plan = plan_epoch(examples, make_options(GetParam().shuffle, GetParam().packing), 0);
    std::vector<int64_t> indices = flat(plan);
    std::sort(indices.begin(), indices.end());
    std::vector<int64_t> all(examples.size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(indices, all) << count;
    int64_t short_batches = 0;
    for (const auto& batch : plan) {
      EXPECT_GE(batch.size(), 1u);
      EXPECT_LE(batch.size(), 4u);
      short_batches += batch.size() < 4 ? 1 : 0;
      for (const auto& row : batch) {
        EXPECT_GE(row.size(), 1u);
        EXPECT_LE(row_length(examples, row), 64);
        if (!GetParam().packing) {
          EXPECT_EQ(row.size(), 1u);
        }
      }
    }
    EXPECT_LE(short_batches, 1);
  }
}

TEST_P(Epoch, FollowsFromSeedAndEpoch) {
  const auto examples = make_examples(300);
  const auto plan = [&](uint64_t seed, int64_t epoch) {
    return plan_epoch(examples, make_options(GetParam().shuffle, GetParam().packing, 4, seed), epoch);
  };
  EXPECT_EQ(plan(7, 3), plan(7, 3));
  if (GetParam().shuffle) {
    std::set<BatchPlan> different{plan(7, 3), plan(7, 4), plan(8, 3), plan(8, 2), plan(3, 7), plan(0, 0)};
    EXPECT_EQ(different.size(), 6u);
  } else {
    EXPECT_EQ(plan(7, 3), plan(8, 4));
    EXPECT_TRUE(std::ranges::is_sorted(flat(plan(7, 3))));
  }
}

TEST(EpochOrder, IsTheSameOnEveryPlatform) {
  // From an implementation in Python.
  EXPECT_THAT(
      flat(plan_epoch(of_lengths({1, 1, 1, 1, 1, 1, 1, 1}), make_options(true, false, 1, 42), 1)),
      ElementsAre(5, 4, 6, 7, 1, 2, 3, 0));
}

TEST(EpochOrder, PutsLittlePaddingInShuffledBatches) {
  const auto examples = make_examples(1600);
  const auto padded = [&](bool shuffle) {
    int64_t total = 0;
    for (const auto& batch : plan_epoch(examples, make_options(shuffle, false, 16), 0)) {
      int64_t longest = 0;
      for (const auto& row : batch) {
        longest = std::max(longest, row_length(examples, row));
      }
      total += longest * static_cast<int64_t>(batch.size());
    }
    return total;
  };
  int64_t tokens = 0;
  for (const Example& example : examples) {
    tokens += static_cast<int64_t>(example.input_ids.size());
  }
  EXPECT_LT(padded(true), tokens * 110 / 100);
  EXPECT_GT(padded(false), tokens * 160 / 100);
}

TEST(EpochOrder, SpreadsExamplesEvenlyOverPositions) {
  // Where example 0 of 8 stands in 4000 epochs: 500 at each place, with a standard deviation of 21.
  const auto examples = of_lengths(std::vector<int64_t>(8, 1));
  std::vector<int64_t> places(8);
  for (int64_t epoch = 0; epoch < 4000; ++epoch) {
    const auto order = flat(plan_epoch(examples, make_options(true, false, 1), epoch));
    ++places[std::find(order.begin(), order.end(), 0) - order.begin()];
  }
  for (const int64_t count : places) {
    EXPECT_NEAR(count, 500, 105);
  }
}

TEST(Packing, FillsRowsByBestFitWhenShuffling) {
  // 6+4, 5+5 and 7+3 fill three rows of 10; the order of the file would take four.
  BatchOptions options = make_options(true, true, 8);
  options.max_length(10);
  const auto examples = of_lengths({4, 7, 5, 6, 3, 5});
  const auto plan = plan_epoch(examples, options, 0);
  ASSERT_EQ(plan.size(), 1u);
  ASSERT_EQ(plan[0].size(), 3u);
  for (const auto& row : plan[0]) {
    EXPECT_EQ(row_length(examples, row), 10);
  }
}

TEST(Packing, KeepsTheFilesOrderWhenNotShuffling) {
  BatchOptions options = make_options(false, true, 2);
  options.max_length(10);
  const auto plan = plan_epoch(of_lengths({4, 6, 7, 4, 3, 3, 10, 1}), options, 0);
  const BatchPlan expected{{{0, 1}, {2}}, {{3, 4, 5}, {6}}, {{7}}};
  EXPECT_EQ(plan, expected);
}

TEST(Packing, WastesLittleOfItsRows) {
  const auto examples = make_examples(2000);
  int64_t tokens = 0;
  int64_t rows = 0;
  for (const auto& batch : plan_epoch(examples, make_options(true, true), 0)) {
    for (const auto& row : batch) {
      tokens += row_length(examples, row);
      ++rows;
    }
  }
  EXPECT_GT(tokens, rows * 64 * 97 / 100);
}

TEST(EpochOptions, AreChecked) {
  const auto examples = of_lengths({3});
  EXPECT_THROW(plan_epoch(examples, make_options(true, false, 0), 0), c10::ValueError);
  EXPECT_THROW(plan_epoch(examples, make_options(true, false), -1), c10::ValueError);
  BatchOptions packing = make_options(true, true);
  packing.max_length(0);
  EXPECT_THROW(plan_epoch(examples, packing, 0), c10::ValueError);
  packing.max_length(2);
  EXPECT_THROW(plan_epoch(examples, packing, 0), c10::ValueError);
  packing.max_length(3);
  EXPECT_EQ(plan_epoch(examples, packing, 0).size(), 1u);
}

} // namespace
} // namespace rora
