#include <rora/training/memory_bound.h>

#include <gtest/gtest.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace rora {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

/// Memory that is in use in small pieces.
using Pieces = std::vector<std::unique_ptr<char[]>>;

Pieces take(int64_t bytes) {
  constexpr int64_t kPiece = 64 * 1024;
  Pieces pieces;
  for (int64_t i = 0; i < bytes / kPiece; ++i) {
    pieces.push_back(std::make_unique<char[]>(kPiece));
    std::memset(pieces.back().get(), 1, kPiece);
  }
  return pieces;
}

/// Frees all but the last piece, above which alone the C library gives back by itself.
void free_below_the_last(Pieces& pieces) {
  pieces.erase(pieces.begin(), pieces.end() - 1);
}

#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__)
TEST(MemoryBound, DISABLED_NeedsTheAllocatorOfGlibc) {}
#else
TEST(MemoryBound, GivesBackFreedPagesOnlyAboveTheBound) {
  malloc_trim(0);
  const int64_t before = resident_bytes();
  Pieces pieces = take(256 * kMiB);
  free_below_the_last(pieces);
  const int64_t kept = resident_bytes();
  ASSERT_GT(kept, before + 200 * kMiB);
  EXPECT_FALSE(MemoryBound(kept, 0).enforce());
  EXPECT_GT(resident_bytes(), before + 200 * kMiB);
  EXPECT_TRUE(MemoryBound(before + 50 * kMiB, 0).enforce());
  EXPECT_LT(resident_bytes(), before + 50 * kMiB);
}

TEST(MemoryBound, RisesWhereTheMemoryIsInUse) {
  malloc_trim(0);
  const int64_t before = resident_bytes();
  const Pieces used = take(256 * kMiB);
  MemoryBound bound(before + 50 * kMiB, /*step=*/100 * kMiB);
  EXPECT_TRUE(bound.enforce());
  EXPECT_FALSE(bound.enforce()); // nothing to be had
  Pieces step = take(90 * kMiB);
  free_below_the_last(step);
  EXPECT_FALSE(bound.enforce()); // what a step takes
  Pieces more = take(400 * kMiB);
  free_below_the_last(more);
  EXPECT_TRUE(bound.enforce());
}

TEST(MemoryBound, RisesWhereEveryStepTakesMoreThanWasThought) {
  malloc_trim(0);
  MemoryBound bound(resident_bytes(), /*step=*/32 * kMiB);
  int64_t asked = 0;
  for (int i = 0; i < 8; ++i) {
    Pieces step = take(256 * kMiB);
    free_below_the_last(step);
    asked += bound.enforce() ? 1 : 0;
  }
  EXPECT_GE(asked, 1);
  EXPECT_LE(asked, 5);
}
#endif

} // namespace
} // namespace rora
