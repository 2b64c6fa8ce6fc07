#pragma once

#include "support/test_data.h"

#include <rora/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>

namespace rora::testing {

/// Expects a training that is stopped after `stop` steps and gone on with to end with the values of one that is not.
/// `Training` is made from options and has a `trainer`. `stopped` is called with the options of the one that stopped,
/// `ended` with both at the end.
template <class Training>
void expect_the_same_bits_once_resumed(
    const TrainerOptions& options, int64_t stop, const std::function<void(const TrainerOptions& resumable)>& stopped,
    const std::function<void(const Training& resumed, const Training& whole)>& ended) {
  Training whole(options);
  whole.trainer->train();
  const TemporaryFolder folder;
  const auto resumable = TrainerOptions(options).output(folder.path()).resume(true);
  Training first(resumable);
  first.trainer->set_callback([&](const StepMetrics& metrics) {
    if (metrics.step == stop) {
      first.trainer->request_stop();
    }
  });
  EXPECT_TRUE(first.trainer->train().interrupted);
  stopped(resumable);
  Training second(resumable);
  EXPECT_EQ(second.trainer->restore(), stop);
  second.trainer->train();
  EXPECT_TRUE(at::equal(second.trainer->parameters().values(), whole.trainer->parameters().values())) << stop;
  ended(second, whole);
}

} // namespace rora::testing
