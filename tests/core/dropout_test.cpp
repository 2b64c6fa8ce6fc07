#include <rora/core/dropout.h>
#include <rora/core/philox.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <thread>

namespace rora::ops {
namespace {

// The known answers published with the Random123 library for philox4x32, 10 rounds.
TEST(Philox, GivesThePublishedVectors) {
  const Philox zeros = Philox::generate(0, 0, 0);
  EXPECT_EQ(zeros.word[0], 0x6627e8d5u);
  EXPECT_EQ(zeros.word[1], 0xe169c58du);
  EXPECT_EQ(zeros.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zeros.word[3], 0x9b00dbd8u);
  const Philox ones = Philox::generate(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0});
  EXPECT_EQ(ones.word[0], 0x408f276du);
  EXPECT_EQ(ones.word[1], 0x41c83b0eu);
  EXPECT_EQ(ones.word[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.word[3], 0x6d5451fdu);
  const Philox digits = Philox::generate(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x0370734413198a2eu);
  EXPECT_EQ(digits.word[0], 0xd16cfe09u);
  EXPECT_EQ(digits.word[1], 0x94fdccebu);
  EXPECT_EQ(digits.word[2], 0x5001e420u);
  EXPECT_EQ(digits.word[3], 0x24126ea1u);
}

TEST(Dropout, KeepsTheAskedShareAndTheMean) {
  const at::Tensor ones = at::ones({1000, 100});
  const at::Tensor dropped = Dropout{0.3, 5}.apply(ones);
  const double kept = (dropped != 0).to(at::kDouble).mean().item<double>();
  // Five standard deviations of a share of 10⁵ draws.
  EXPECT_NEAR(kept, 0.7, 5 * std::sqrt(0.21 / 1e5));
  EXPECT_FLOAT_EQ(dropped.max().item<float>(), 1.0f / 0.7f);
}

TEST(Dropout, FollowsFromTheSeedAlone) {
  const auto mask = [](uint64_t seed, at::ScalarType dtype) { return Dropout{0.5, seed}.mask({33, 7}, dtype); };
  EXPECT_TRUE(at::equal(mask(9, at::kFloat), mask(9, at::kFloat)));
  EXPECT_FALSE(at::equal(mask(9, at::kFloat), mask(10, at::kFloat)));
  EXPECT_TRUE(at::equal(mask(9, at::kDouble) != 0, mask(9, at::kFloat) != 0));
}

TEST(Dropout, WithoutAProbabilityIsTheInputItself) {
  const at::Tensor x = at::randn({3});
  EXPECT_TRUE(Dropout{}.apply(x).is_same(x));
}

TEST(Dropout, SeedsFollowFromTheDefaultGenerator) {
  at::manual_seed(4);
  const uint64_t first = draw_seed();
  const uint64_t second = draw_seed();
  at::manual_seed(4);
  EXPECT_EQ(draw_seed(), first);
  EXPECT_NE(first, second);
}

TEST(Dropout, AThreadsOwnGeneratorGivesTheSeedsOfTheDefaultOneAndLeavesThatAlone) {
  at::manual_seed(4);
  const uint64_t first = draw_seed();
  const uint64_t second = draw_seed();
  at::manual_seed(4);
  {
    const ThreadGenerator own(4);
    EXPECT_EQ(draw_seed(), first);
    {
      const ThreadGenerator inner(9);
      EXPECT_NE(draw_seed(), second);
    }
    EXPECT_EQ(draw_seed(), second);
    std::thread([&] { EXPECT_FALSE(thread_generator().defined()); }).join();
  }
  EXPECT_EQ(draw_seed(), first);
}

} // namespace
} // namespace rora::ops
