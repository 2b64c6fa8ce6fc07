#include <rora/data/batch.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

namespace rora {

namespace {

using Row = std::vector<int64_t>;

/// SplitMix64 (Steele, Lea and Flood, 2014). The standard library's shuffle and distributions give other numbers
/// elsewhere, and a run must be the same on every platform.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t state) : state_(state) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  /// Uniform in [0, bound).
  uint64_t below(uint64_t bound) {
    const uint64_t uneven = (std::numeric_limits<uint64_t>::max() - bound + 1) % bound; // 2^64 mod bound
    uint64_t value = next();
    while (value < uneven) {
      value = next();
    }
    return value % bound;
  }

  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[below(i)]);
    }
  }

 private:
  uint64_t state_;
};

SplitMix64 generator(uint64_t seed, int64_t epoch) {
  // Through one step, so that (seed, epoch) and (seed + 1, epoch - 1) have nothing in common.
  return SplitMix64(SplitMix64(seed).next() ^ SplitMix64(~static_cast<uint64_t>(epoch)).next());
}

int64_t length(const Example& example) {
  return static_cast<int64_t>(example.input_ids.size());
}

void check(const std::vector<Example>& examples, const BatchOptions& options, int64_t epoch) {
  TORCH_CHECK_VALUE(options.batch_size() >= 1, "batch_size: expected at least 1, found ", options.batch_size());
  TORCH_CHECK_VALUE(epoch >= 0, "epoch: expected at least 0, found ", epoch);
  if (!options.packing()) {
    return;
  }
  TORCH_CHECK_VALUE(
      options.max_length() >= 1, "max_length: expected at least 1 when packing, found ", options.max_length());
  for (size_t i = 0; i < examples.size(); ++i) {
    TORCH_CHECK_VALUE(
        length(examples[i]) <= options.max_length(), "example ", i, ": expected at most max_length ",
        options.max_length(), " tokens when packing, found ", length(examples[i]));
  }
}

/// Calls `function` on consecutive ranges of `order` of at most `window` items.
template <typename Function>
void for_each_window(std::vector<int64_t>& order, int64_t window, Function function) {
  for (auto begin = order.begin(); begin != order.end();) {
    const auto end = begin + std::min<std::ptrdiff_t>(window, order.end() - begin);
    function(begin, end);
    begin = end;
  }
}

/// Longest first, as packing wants it; unpacked, an epoch's short last batch then holds short examples.
auto longer_first(const std::vector<Example>& examples) {
  return [&examples](int64_t a, int64_t b) { return length(examples[a]) > length(examples[b]); };
}

BatchPlan batches_of(std::vector<Row> rows, int64_t batch_size) {
  BatchPlan plan;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % static_cast<size_t>(batch_size) == 0) {
      plan.emplace_back();
    }
    plan.back().push_back(std::move(rows[i]));
  }
  return plan;
}

/// Sorted by length within windows of up to 50 batches, at least four windows an epoch: long enough that a batch pads
/// little, short enough that its company changes each epoch.
BatchPlan plan_padded(
    const std::vector<Example>& examples, const BatchOptions& options, std::vector<int64_t> order, SplitMix64& random) {
  if (options.shuffle()) {
    constexpr int64_t kBatches = 50;
    constexpr int64_t kWindows = 4;
    const int64_t batches = static_cast<int64_t>(order.size()) / options.batch_size() / kWindows;
    const int64_t window = std::clamp<int64_t>(batches, 1, kBatches) * options.batch_size();
    for_each_window(order, window, [&](auto begin, auto end) { std::stable_sort(begin, end, longer_first(examples)); });
  }
  std::vector<Row> rows;
  rows.reserve(order.size());
  for (const int64_t index : order) {
    rows.push_back({index});
  }
  BatchPlan plan = batches_of(std::move(rows), options.batch_size());
  if (options.shuffle()) {
    random.shuffle(plan);
  }
  return plan;
}

/// Each example goes to the row it fills best, longest example first.
template <typename Iterator>
void pack_best_fit(
    const std::vector<Example>& examples, int64_t max_length, Iterator begin, Iterator end, std::vector<Row>& rows) {
  std::stable_sort(begin, end, longer_first(examples));
  std::set<std::pair<int64_t, size_t>> open; // space left, row
  for (auto it = begin; it != end; ++it) {
    const int64_t needed = length(examples[*it]);
    const auto best = open.lower_bound({needed, 0});
    std::pair<int64_t, size_t> row{max_length, rows.size()};
    if (best == open.end()) {
      rows.emplace_back();
    } else {
      row = *best;
      open.erase(best);
    }
    rows[row.second].push_back(*it);
    open.insert({row.first - needed, row.second});
  }
}

/// In the order given: a row is closed by the first example that it has no space for.
std::vector<Row> pack_in_order(
    const std::vector<Example>& examples, int64_t max_length, const std::vector<int64_t>& order) {
  std::vector<Row> rows;
  int64_t space = 0;
  for (const int64_t index : order) {
    const int64_t needed = length(examples[index]);
    if (rows.empty() || needed > space) {
      rows.emplace_back();
      space = max_length;
    }
    rows.back().push_back(index);
    space -= needed;
  }
  return rows;
}

BatchPlan plan_packed(
    const std::vector<Example>& examples, const BatchOptions& options, std::vector<int64_t> order, SplitMix64& random) {
  if (!options.shuffle()) {
    return batches_of(pack_in_order(examples, options.max_length(), order), options.batch_size());
  }
  // Large enough for full rows, smaller than the data where that is large, so that rows differ between epochs.
  const int64_t window = std::clamp<int64_t>(static_cast<int64_t>(order.size()) / 4, 64, 1024);
  std::vector<Row> rows;
  for_each_window(
      order, window, [&](auto begin, auto end) { pack_best_fit(examples, options.max_length(), begin, end, rows); });
  random.shuffle(rows);
  return batches_of(std::move(rows), options.batch_size());
}

} // namespace

BatchPlan plan_epoch(const std::vector<Example>& examples, const BatchOptions& options, int64_t epoch) {
  check(examples, options, epoch);
  std::vector<int64_t> order(examples.size());
  std::iota(order.begin(), order.end(), 0);
  SplitMix64 random = generator(options.seed(), epoch);
  if (options.shuffle()) {
    random.shuffle(order);
  }
  return options.packing() ? plan_packed(examples, options, std::move(order), random)
                           : plan_padded(examples, options, std::move(order), random);
}

} // namespace rora
