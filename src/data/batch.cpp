#include <rora/data/batch.h>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <iterator>

namespace rora {

namespace {

const Example& example_at(const std::vector<Example>& examples, int64_t index) {
  TORCH_CHECK_VALUE(
      index >= 0 && index < static_cast<int64_t>(examples.size()), "expected an example below ", examples.size(),
      ", found ", index);
  const Example& example = examples[index];
  TORCH_CHECK_VALUE(
      !example.input_ids.empty() && example.labels.size() == example.input_ids.size(), "example ", index,
      ": expected ids and as many labels, found ", example.input_ids.size(), " and ", example.labels.size());
  return example;
}

int64_t row_length(const std::vector<Example>& examples, const std::vector<int64_t>& row) {
  TORCH_CHECK_VALUE(!row.empty(), "expected an example in each row, found an empty row");
  int64_t length = 0;
  for (const int64_t index : row) {
    length += static_cast<int64_t>(example_at(examples, index).input_ids.size());
  }
  return length;
}

/// Targets of an example that the loss counts. The first label has nothing to be predicted from.
int64_t count_targets(const Example& example) {
  return std::ssize(example.labels) - 1 - std::count(example.labels.begin() + 1, example.labels.end(), kIgnoreIndex);
}

} // namespace

int64_t count_labelled_tokens(const std::vector<Example>& examples, const std::vector<std::vector<int64_t>>& rows) {
  int64_t count = 0;
  for (const std::vector<int64_t>& row : rows) {
    for (const int64_t index : row) {
      count += count_targets(example_at(examples, index));
    }
  }
  return count;
}

Batch make_batch(
    const std::vector<Example>& examples, const std::vector<std::vector<int64_t>>& rows, int64_t pad_id,
    PaddingSide side) {
  int64_t longest = 0;
  bool needs_mask = false;
  for (const std::vector<int64_t>& row : rows) {
    const int64_t length = row_length(examples, row);
    needs_mask = needs_mask || row.size() > 1 || (longest != 0 && length != longest);
    longest = std::max(longest, length);
  }
  TORCH_CHECK_VALUE(longest > 0, "expected at least one row, found none");

  const int64_t count = static_cast<int64_t>(rows.size());
  Batch batch;
  batch.input_ids = at::full({count, longest}, pad_id, at::kLong);
  batch.labels = at::full({count, longest}, kIgnoreIndex, at::kLong);
  const at::Tensor mask = at::zeros({count, longest}, at::kLong);
  for (int64_t r = 0; r < count; ++r) {
    const int64_t begin =
        r * longest + (side == PaddingSide::kLeft ? longest - row_length(examples, rows[r]) : int64_t{0});
    int64_t* ids = batch.input_ids.mutable_data_ptr<int64_t>() + begin;
    int64_t* labels = batch.labels.mutable_data_ptr<int64_t>() + begin;
    int64_t* sequence = mask.mutable_data_ptr<int64_t>() + begin;
    for (size_t k = 0; k < rows[r].size(); ++k) {
      const Example& example = examples[rows[r][k]];
      const size_t length = example.input_ids.size();
      std::copy(example.input_ids.begin(), example.input_ids.end(), ids);
      // The first label stays ignored: it would be predicted from the sequence before, or from padding on the left.
      std::copy(example.labels.begin() + 1, example.labels.end(), labels + 1);
      std::fill_n(sequence, length, static_cast<int64_t>(k) + 1);
      batch.tokens += static_cast<int64_t>(length);
      batch.labelled_tokens += count_targets(example);
      ids += length;
      labels += length;
      sequence += length;
    }
  }
  if (needs_mask) {
    batch.attention_mask = mask;
  }
  return batch;
}

} // namespace rora
