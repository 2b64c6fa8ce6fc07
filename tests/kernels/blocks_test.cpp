#include <kernels/block_sum.h>
#include <kernels/matrix.h>

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace rora::kernels::cuda {
namespace {

struct ReversesAStretch {
  static constexpr int kThreads = 64;
  int* data;
  bool waits;
  Geometry geometry() const {
    return {3, 2, kThreads * static_cast<int64_t>(sizeof(int))};
  }
  RORA_DEVICE void operator()() const {
    int* shared = reinterpret_cast<int*>(shared_memory());
    int* own = data + (block_y() * 3 + block_x()) * kThreads;
    shared[thread_index()] = own[thread_index()];
    if (waits) {
      sync_block();
    }
    own[thread_index()] = shared[kThreads - 1 - thread_index()];
  }
};

std::vector<int> reversed(bool waits, host::Order order) {
  std::vector<int> data(6 * 64);
  std::iota(data.begin(), data.end(), 0);
  host::run(ReversesAStretch{data.data(), waits}, order);
  return data;
}

TEST(HostBlocks, PassBarriersTogether) {
  for (const auto order : {host::Order::kAscending, host::Order::kDescending, host::Order::kShuffled}) {
    const std::vector<int> found = reversed(true, order);
    for (int i = 0; i < 6 * 64; ++i) {
      EXPECT_EQ(found[static_cast<size_t>(i)], i / 64 * 64 + 63 - i % 64);
    }
  }
}

TEST(HostBlocks, ShowAMissingBarrier) {
  EXPECT_NE(reversed(false, host::Order::kAscending), reversed(false, host::Order::kDescending));
}

struct Sums {
  static constexpr int kThreads = 96;
  float* sums;
  Geometry geometry() const {
    return {1, 1, 3 * static_cast<int64_t>(sizeof(float))};
  }
  RORA_DEVICE void operator()() const {
    sums[thread_index()] =
        block_sum<kThreads>(static_cast<float>(thread_index()), reinterpret_cast<float*>(shared_memory()));
  }
};

TEST(HostBlocks, SumOverTheBlockInEveryThread) {
  std::vector<float> sums(96);
  host::run(Sums{sums.data()}, host::Order::kShuffled);
  EXPECT_EQ(sums, std::vector<float>(96, 95.0f * 96.0f / 2.0f));
}

struct OneComesLate {
  static constexpr int kThreads = 64;
  bool warp;
  Geometry geometry() const {
    return {};
  }
  RORA_DEVICE void operator()() const {
    if (thread_index() != 40) {
      warp ? sync_warp() : sync_block();
    }
  }
};

TEST(HostBlocks, RefuseBarriersThatNotAllThreadsReach) {
  EXPECT_THROW(host::run(OneComesLate{true}), std::logic_error);
  EXPECT_THROW(host::run(OneComesLate{false}), std::logic_error);
}

struct CopiesOverWhatIsRead {
  static constexpr int kThreads = 64;
  const char* zeros; ///< 16 of them
  int* found;
  bool waits;
  Geometry geometry() const {
    return {1, 1, kThreads * 16};
  }
  RORA_DEVICE void operator()() const {
    char* own = shared_memory() + 16 * thread_index();
    *reinterpret_cast<int*>(own) = 1;
    sync_block();
    if (waits) {
      found[thread_index()] = *reinterpret_cast<int*>(shared_memory() + 16 * (kThreads - 1 - thread_index()));
      sync_block();
    }
    copy_later(own, zeros, 16);
    commit_copies();
    if (!waits) {
      found[thread_index()] = *reinterpret_cast<int*>(shared_memory() + 16 * (kThreads - 1 - thread_index()));
      sync_block();
    }
    wait_for_copies<0>();
  }
};

TEST(HostBlocks, ShowACopyOverWhatIsStillRead) {
  alignas(16) const char zeros[16] = {};
  const auto found = [&](bool waits, host::Order order) {
    std::vector<int> numbers(64);
    host::run(CopiesOverWhatIsRead{zeros, numbers.data(), waits}, order);
    return numbers;
  };
  EXPECT_EQ(found(true, host::Order::kDescending), std::vector<int>(64, 1));
  EXPECT_EQ(found(true, host::Order::kAscending), std::vector<int>(64, 1));
  EXPECT_NE(found(false, host::Order::kDescending), found(false, host::Order::kAscending));
}

struct ReadsWhatNobodyWrote {
  static constexpr int kThreads = 32;
  float* found;
  Geometry geometry() const {
    return {1, 1, 4};
  }
  RORA_DEVICE void operator()() const {
    *found = *reinterpret_cast<float*>(shared_memory());
  }
};

TEST(HostBlocks, BeginWithNaNsInSharedMemory) {
  float found = 0.0f;
  host::run(ReadsWhatNobodyWrote{&found});
  EXPECT_TRUE(std::isnan(found));
}

TEST(BFloat16Numbers, RoundToTheNearestAndTiesToEven) {
  EXPECT_EQ(rounded<BFloat16>(1.0f).bits, 0x3F80);
  EXPECT_EQ(rounded<BFloat16>(bits_to_float(0x3F808000u)).bits, 0x3F80); // a tie
  EXPECT_EQ(rounded<BFloat16>(bits_to_float(0x3F818000u)).bits, 0x3F82); // a tie
  EXPECT_EQ(rounded<BFloat16>(bits_to_float(0x3F808001u)).bits, 0x3F81);
  EXPECT_EQ(rounded<BFloat16>(bits_to_float(0x7F7FFFFFu)).bits, 0x7F80); // beyond the largest
  EXPECT_TRUE(std::isnan(widen(rounded<BFloat16>(std::nanf("")))));
  EXPECT_EQ(rounded_pair(1.0f, bits_to_float(0x3F818000u)), 0x3F823F80u); // the first in the lower half
}

} // namespace
} // namespace rora::kernels::cuda
