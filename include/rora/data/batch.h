#pragma once

#include <rora/data/dataset.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <cstdint>
#include <vector>

namespace rora {

/// Rows of tokens, all int64 `[batch, seq]`.
struct Batch {
  at::Tensor input_ids;
  at::Tensor labels; ///< `kIgnoreIndex` on padding and on the first token of each sequence
  /// 0 on padding, k ≥ 1 on the tokens of a row's k-th sequence: tokens see only their own sequence's. Undefined where
  /// every row is one sequence without padding.
  at::Tensor attention_mask;
  int64_t tokens = 0; ///< without padding
  int64_t labelled_tokens = 0; ///< targets that the loss counts, after the shift
};

enum class PaddingSide { kRight, kLeft };

struct BatchOptions {
  TORCH_ARG(int64_t, batch_size) = 1; // examples a batch; rows a batch when packing
  TORCH_ARG(bool, packing) = false; // several examples a row of `max_length`, seen apart by the attention mask
  TORCH_ARG(int64_t, max_length) = 0; // the length of a packed row
  TORCH_ARG(bool, shuffle) =
      true; // a new order each epoch, of batches of examples alike in length; else the file's order
  TORCH_ARG(uint64_t, seed) = 0; // the order follows from seed and epoch alone
};

/// The examples of each batch of one epoch, by index: batches of rows of examples.
using BatchPlan = std::vector<std::vector<std::vector<int64_t>>>;

/// Each example once. Follows from the arguments alone, on every platform. The last batch may be short, and with
/// `shuffle` stands anywhere.
///
/// Without packing, rows are single examples; `shuffle` orders them at random, sorts them by length within windows and
/// shuffles the batches. With packing, `shuffle` fills rows by best fit within windows, longest first, and shuffles the
/// rows; else rows are filled in the file's order.
///
/// Throws `c10::ValueError` for a batch size below 1, a negative epoch, and, when packing, a `max_length` below 1
/// or an example longer than that.
BatchPlan plan_epoch(const std::vector<Example>& examples, const BatchOptions& options, int64_t epoch);

/// Rows of examples as tensors on the CPU, padded to the longest row. Throws `c10::ValueError` for no rows, a row or
/// example that is empty, and an index that is not an example's.
Batch make_batch(
    const std::vector<Example>& examples, const std::vector<std::vector<int64_t>>& rows, int64_t pad_id = 0,
    PaddingSide side = PaddingSide::kRight);

/// `labelled_tokens` of the batch that `make_batch` makes of the rows, without making it.
int64_t count_labelled_tokens(const std::vector<Example>& examples, const std::vector<std::vector<int64_t>>& rows);

} // namespace rora
