#pragma once

#include <rora/data/batch.h>
#include <rora/model/prepared_input.h>

#include <cstdint>

// Paddings that leave a batch's loss and gradients as they are and few different shapes.
namespace rora::detail {

/// Rows on the CPU, with padding behind them up to a whole multiple of 64 tokens.
Batch padded_rows(Batch batch);

/// The least of a few counts that `count` goes into: multiples of `least`, and from four times that on of a quarter of
/// the power of two below. At most a fifth of it is padding, but for a `count` under four times `least`.
int64_t padded_count(int64_t count, int64_t least);

/// What is prepared for a loss on the CPU, with more chosen tokens, whose targets are ignored, and with sequences
/// without tokens, so that there are few different counts of either.
PreparedLoss padded_counts(PreparedLoss prepared);

} // namespace rora::detail
