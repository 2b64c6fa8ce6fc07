#include <rora/data/batch.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace rora {
namespace {

using Row = std::vector<int64_t>;

at::Tensor table(const std::vector<Row>& rows) {
  Row values;
  for (const Row& row : rows) {
    values.insert(values.end(), row.begin(), row.end());
  }
  return at::tensor(values, at::kLong).view({static_cast<int64_t>(rows.size()), -1});
}

void expect_table(const at::Tensor& found, const std::vector<Row>& expected) {
  EXPECT_EQ(found.scalar_type(), at::kLong);
  EXPECT_TRUE(at::equal(found, table(expected))) << found;
}

const std::vector<Example>& examples() {
  static const std::vector<Example> examples{
      {{1, 2, 3}, {1, -100, 3}}, {{4, 5}, {4, 5}}, {{6, 7, 8, 9}, {-100, -100, 8, 9}}, {{10}, {10}}};
  return examples;
}

TEST(Batch, PadsOnTheRight) {
  const Batch batch = make_batch(examples(), {{0}, {1}, {2}}, 99);
  expect_table(batch.input_ids, {{1, 2, 3, 99}, {4, 5, 99, 99}, {6, 7, 8, 9}});
  expect_table(batch.labels, {{-100, -100, 3, -100}, {-100, 5, -100, -100}, {-100, -100, 8, 9}});
  expect_table(batch.attention_mask, {{1, 1, 1, 0}, {1, 1, 0, 0}, {1, 1, 1, 1}});
  EXPECT_EQ(batch.tokens, 9);
  EXPECT_EQ(batch.labelled_tokens, 4);
}

TEST(Batch, PadsOnTheLeft) {
  const Batch batch = make_batch(examples(), {{0}, {1}, {2}}, 99, PaddingSide::kLeft);
  expect_table(batch.input_ids, {{99, 1, 2, 3}, {99, 99, 4, 5}, {6, 7, 8, 9}});
  // A label on the first token would be predicted from padding.
  expect_table(batch.labels, {{-100, -100, -100, 3}, {-100, -100, -100, 5}, {-100, -100, 8, 9}});
  expect_table(batch.attention_mask, {{0, 1, 1, 1}, {0, 0, 1, 1}, {1, 1, 1, 1}});
  EXPECT_EQ(batch.labelled_tokens, 4);
}

TEST(Batch, NumbersTheSequencesOfARow) {
  const Batch batch = make_batch(examples(), {{1, 0}, {2}, {3, 1, 3}}, 0);
  expect_table(batch.input_ids, {{4, 5, 1, 2, 3}, {6, 7, 8, 9, 0}, {10, 4, 5, 10, 0}});
  expect_table(batch.labels, {{-100, 5, -100, -100, 3}, {-100, -100, 8, 9, -100}, {-100, -100, 5, -100, -100}});
  expect_table(batch.attention_mask, {{1, 1, 2, 2, 2}, {1, 1, 1, 1, 0}, {1, 2, 2, 3, 0}});
  EXPECT_EQ(batch.tokens, 13);
  EXPECT_EQ(batch.labelled_tokens, 5);
}

TEST(Batch, HasAMaskOnlyWhereOneIsNeeded) {
  EXPECT_FALSE(make_batch(examples(), {{0}, {0}}).attention_mask.defined());
  EXPECT_TRUE(make_batch(examples(), {{1}, {0}}).attention_mask.defined());
  EXPECT_TRUE(make_batch(examples(), {{0}, {1}}).attention_mask.defined());
  EXPECT_TRUE(make_batch(examples(), {{1, 1}, {2}}).attention_mask.defined());
}

TEST(Batch, CountsLabelsAsALossWould) {
  std::vector<Example> many;
  for (int64_t i = 0; i < 200; ++i) {
    Example example;
    for (int64_t k = 0; k <= i % 13; ++k) {
      example.input_ids.push_back(k);
      example.labels.push_back((i * 7 + k * 5) % 3 == 0 ? kIgnoreIndex : k);
    }
    many.push_back(example);
  }
  BatchOptions options;
  options.batch_size(5);
  options.max_length(24);
  for (const bool packing : {false, true}) {
    options.packing(packing);
    for (const PaddingSide side : {PaddingSide::kRight, PaddingSide::kLeft}) {
      int64_t labelled = 0;
      int64_t tokens = 0;
      for (const auto& rows : plan_epoch(many, options, 0)) {
        const Batch batch = make_batch(many, rows, 0, side);
        EXPECT_EQ(batch.labelled_tokens, batch.labels.slice(1, 1).ne(kIgnoreIndex).sum().item<int64_t>());
        EXPECT_TRUE(batch.labels.select(1, 0).eq(kIgnoreIndex).all().item<bool>());
        if (batch.attention_mask.defined()) {
          EXPECT_EQ(batch.tokens, batch.attention_mask.ne(0).sum().item<int64_t>());
        }
        labelled += batch.labelled_tokens;
        tokens += batch.tokens;
      }
      int64_t expected_labelled = 0;
      int64_t expected_tokens = 0;
      for (const Example& example : many) {
        expected_tokens += static_cast<int64_t>(example.input_ids.size());
        for (size_t t = 1; t < example.labels.size(); ++t) {
          expected_labelled += example.labels[t] != kIgnoreIndex ? 1 : 0;
        }
      }
      EXPECT_EQ(labelled, expected_labelled);
      EXPECT_EQ(tokens, expected_tokens);
    }
  }
}

TEST(Batch, RefusesRowsAndExamplesThatAreNone) {
  EXPECT_THROW(make_batch(examples(), {}), c10::ValueError);
  EXPECT_THROW(make_batch(examples(), {{0}, {}}), c10::ValueError);
  EXPECT_THROW(make_batch(examples(), {{4}}), c10::ValueError);
  EXPECT_THROW(make_batch(examples(), {{-1}}), c10::ValueError);
  EXPECT_THROW(make_batch({{{}, {}}}, {{0}}), c10::ValueError);
  EXPECT_THROW(make_batch({{{1, 2}, {1}}}, {{0}}), c10::ValueError);
}

TEST(CountLabelledTokens, IsWhatMakeBatchCounts) {
  const std::vector<Example> some{{{1, 2, 3}, {1, kIgnoreIndex, 3}}, {{4, 5}, {4, 5}}, {{6}, {6}}};
  for (const std::vector<std::vector<int64_t>>& rows :
       {std::vector<std::vector<int64_t>>{{0}, {1}}, {{0, 1, 2}}, {{2}, {2, 0}}}) {
    EXPECT_EQ(count_labelled_tokens(some, rows), make_batch(some, rows).labelled_tokens);
  }
}

} // namespace
} // namespace rora
