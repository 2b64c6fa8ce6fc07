#include <kernels/tiles.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

namespace rora::kernels::cuda {
namespace {

/// Small whole numbers, which bfloat16 and their sums of products hold exactly.
std::vector<BFloat16> whole_numbers(int count, int seed) {
  std::vector<BFloat16> numbers;
  for (int i = 0; i < count; ++i) {
    numbers.push_back(rounded<BFloat16>(static_cast<float>((i * 37 + i / 16 * 11 + seed) % 17 - 8)));
  }
  return numbers;
}

/// One product by a warp from fragments as the PTX manual draws them: registers named by element, not by this code's
/// helpers.
struct MultipliesFragments {
  static constexpr int kThreads = 32;
  const BFloat16 *a, *b; ///< `[16, 16]` and `[16, 8]`
  float* c; ///< `[16, 8]`
  Geometry geometry() const {
    return {};
  }
  RORA_DEVICE void operator()() const {
    const int group = lane_index() >> 2, in_group = lane_index() & 3;
    uint32_t of_a[4] = {}, of_b[2] = {};
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const int column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      of_a[i / 2] |= static_cast<uint32_t>(a[row * 16 + column].bits) << (i & 1) * 16;
    }
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      of_b[i / 2] |= static_cast<uint32_t>(b[row * 8 + group].bits) << (i & 1) * 16;
    }
    float sum[4];
    for (int i = 0; i < 4; ++i) {
      sum[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
    }
    multiply_matrices(sum, of_a, of_b);
    for (int i = 0; i < 4; ++i) {
      c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = sum[i];
    }
  }
};

TEST(TensorCores, MultiplyFragmentsAsThePtxManualDrawsThem) {
  const auto a = whole_numbers(256, 1), b = whole_numbers(128, 5);
  std::vector<float> c(128), expected(128);
  for (int i = 0; i < 128; ++i) {
    c[static_cast<size_t>(i)] = expected[static_cast<size_t>(i)] = static_cast<float>(i);
    for (int k = 0; k < 16; ++k) {
      expected[static_cast<size_t>(i)] +=
          widen(a[static_cast<size_t>(i / 8 * 16 + k)]) * widen(b[static_cast<size_t>(k * 8 + i % 8)]);
    }
  }
  host::run(MultipliesFragments{a.data(), b.data(), c.data()}, host::Order::kShuffled);
  EXPECT_EQ(c, expected);
}

/// c `[32, 16]` = a `[32, 16]`·b `[16, 16]` from shared memory, where either lies by rows or by columns.
template <class T, class Right, Layout of_a, Layout of_b>
struct MultipliesTiles {
  static constexpr int kThreads = 32;
  static constexpr int kPitchOfA = (of_a == Layout::kRows ? 16 : 32) + 8, kPitchOfB = 24;
  const BFloat16 *a, *b;
  float* c;
  Geometry geometry() const {
    return {1, 1, 32 * 40 * 4 + 16 * 24 * 4};
  }
  RORA_DEVICE void operator()() const {
    T* left = reinterpret_cast<T*>(shared_memory());
    Right* right = reinterpret_cast<Right*>(shared_memory() + 32 * 40 * 4);
    for (int i = lane_index(); i < 32 * 16; i += 32) {
      left[of_a == Layout::kRows ? i / 16 * kPitchOfA + i % 16 : i % 16 * kPitchOfA + i / 16] = rounded<T>(widen(a[i]));
    }
    for (int i = lane_index(); i < 16 * 16; i += 32) {
      right[of_b == Layout::kRows ? i / 16 * kPitchOfB + i % 16 : i % 16 * kPitchOfB + i / 16] =
          rounded<Right>(widen(b[i]));
    }
    sync_warp();
    float sum[2][2][4] = {};
    multiply_tiles<of_a, of_b>(sum, left, kPitchOfA, right, kPitchOfB);
    for_numbers(sum, [&](int row, int column, float number) { c[row * 16 + column] = number; });
  }
};

template <class T, class Right, Layout of_a, Layout of_b>
void expect_product() {
  const auto a = whole_numbers(512, 2), b = whole_numbers(256, 9);
  std::vector<float> c(512), expected(512);
  for (size_t i = 0; i < 512; ++i) {
    for (size_t k = 0; k < 16; ++k) {
      expected[i] += widen(a[i / 16 * 16 + k]) * widen(b[k * 16 + i % 16]);
    }
  }
  host::run(MultipliesTiles<T, Right, of_a, of_b>{a.data(), b.data(), c.data()}, host::Order::kShuffled);
  EXPECT_EQ(c, expected);
}

TEST(Tiles, AreMultipliedHoweverTheyLie) {
  expect_product<BFloat16, BFloat16, Layout::kRows, Layout::kRows>();
  expect_product<BFloat16, BFloat16, Layout::kRows, Layout::kColumns>();
  expect_product<BFloat16, BFloat16, Layout::kColumns, Layout::kRows>();
  expect_product<BFloat16, BFloat16, Layout::kColumns, Layout::kColumns>();
  expect_product<BFloat16, float, Layout::kRows, Layout::kColumns>();
  expect_product<float, float, Layout::kRows, Layout::kRows>();
  expect_product<float, float, Layout::kRows, Layout::kColumns>();
  expect_product<float, float, Layout::kColumns, Layout::kRows>();
}

/// Copies three packets in three groups and notes what is there after it has waited for all but `pending` of them.
struct Copies {
  static constexpr int kThreads = 32;
  const Packet<float>* from;
  float* found; ///< `[3, 4]`, by lane 0
  int pending;
  int bytes;
  Geometry geometry() const {
    return {1, 1, 3 * 16};
  }
  RORA_DEVICE void operator()() const {
    if (lane_index() != 0) {
      return;
    }
    float* shared = reinterpret_cast<float*>(shared_memory());
    for (int i = 0; i < 3; ++i) {
      copy_later(shared + 4 * i, from + i, bytes);
      commit_copies();
    }
    pending == 3 ? wait_for_copies<3>() : pending == 1 ? wait_for_copies<1>() : wait_for_copies<0>();
    std::copy(shared, shared + 12, found);
  }
};

TEST(HostCopies, AreThereOnceWaitedFor) {
  const std::vector<Packet<float>> from{{{1, 2, 3, 4}}, {{5, 6, 7, 8}}, {{9, 10, 11, 12}}};
  for (const int pending : {3, 1, 0}) {
    std::vector<float> found(12);
    host::run(Copies{from.data(), found.data(), pending, 16});
    for (int i = 0; i < 12; ++i) {
      if (i / 4 < 3 - pending) {
        EXPECT_EQ(found[static_cast<size_t>(i)], static_cast<float>(i + 1));
      } else {
        EXPECT_TRUE(std::isnan(found[static_cast<size_t>(i)])) << i << " is there too soon";
      }
    }
  }
}

TEST(HostCopies, FillUpWithZeros) {
  const std::vector<Packet<float>> from{{{1, 2, 3, 4}}, {{5, 6, 7, 8}}, {{9, 10, 11, 12}}};
  std::vector<float> found(12);
  host::run(Copies{from.data(), found.data(), 0, 8});
  EXPECT_EQ(found, (std::vector<float>{1, 2, 0, 0, 5, 6, 0, 0, 9, 10, 0, 0}));
}

TEST(HostCopies, RefuseWhatIsNotAligned) {
  const std::vector<Packet<float>> from(4);
  std::vector<float> found(12);
  const auto* odd = reinterpret_cast<const Packet<float>*>(reinterpret_cast<const char*>(from.data()) + 4);
  EXPECT_THROW(host::run(Copies{odd, found.data(), 0, 16}), std::logic_error);
}

} // namespace
} // namespace rora::kernels::cuda
