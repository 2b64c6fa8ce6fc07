#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace rora::detail {

/// The indices 0 … `count` − 1 in batches of like length, the longest first: what needs the most memory comes at once.
/// `length(index)` is called for each. Throws `c10::ValueError` for a batch size below 1.
template <typename Length>
std::vector<std::vector<int64_t>> length_sorted_batches(int64_t count, int64_t batch_size, Length length) {
  TORCH_CHECK_VALUE(batch_size >= 1, "batch_size: expected at least 1, found ", batch_size);
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });
  std::vector<std::vector<int64_t>> batches;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i % static_cast<size_t>(batch_size) == 0) {
      batches.emplace_back();
    }
    batches.back().push_back(order[i]);
  }
  return batches;
}

} // namespace rora::detail
