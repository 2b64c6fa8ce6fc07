#include <rora/training/learning_rate.h>

#include <gtest/gtest.h>

#include <stdexcept>

namespace rora {
namespace {

// transformers' get_*_schedule_with_warmup(num_warmup_steps=2, num_training_steps=10), peak 1.
TEST(LearningRate, FollowsTransformersFormulas) {
  const auto at = [](Schedule schedule, int64_t step) { return learning_rate(schedule, 1.0, step, 2, 10); };
  for (const Schedule each : {Schedule::kConstant, Schedule::kLinear, Schedule::kCosine}) {
    EXPECT_DOUBLE_EQ(at(each, 0), 0.0);
    EXPECT_DOUBLE_EQ(at(each, 1), 0.5);
    EXPECT_DOUBLE_EQ(at(each, 2), 1.0);
  }
  EXPECT_DOUBLE_EQ(at(Schedule::kConstant, 9), 1.0);
  EXPECT_DOUBLE_EQ(at(Schedule::kLinear, 9), 0.125);
  EXPECT_DOUBLE_EQ(at(Schedule::kLinear, 10), 0.0);
  EXPECT_NEAR(at(Schedule::kCosine, 6), 0.5, 1e-15);
  EXPECT_NEAR(at(Schedule::kCosine, 9), 0.03806023374435663, 1e-15);
  EXPECT_DOUBLE_EQ(learning_rate(Schedule::kLinear, 3e-4, 0, 0, 10), 3e-4);
}

TEST(LearningRate, NamesItsSchedules) {
  EXPECT_EQ(schedule_from_name("cosine"), Schedule::kCosine);
  EXPECT_THROW(schedule_from_name("cosin"), c10::ValueError);
}

} // namespace
} // namespace rora
