// What becomes of a run whose model's file is changed beneath it.

#include "examples/support.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <optional>
#include <thread>

namespace rora::testing {
namespace {

/// A run that goes on for long, once it has taken its first steps.
class RunningFinetune : public ::testing::Test {
 protected:
  void start(int steps, const std::vector<std::string>& more) {
    process.emplace(place.finetune("run", steps, more));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (place.read("run/metrics.jsonl").size() < 500 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  void cut_off() {
    std::filesystem::resize_file(weights, 4096);
  }

  /// Writes zeros over the last weights.
  void overwrite() {
    std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-64, std::ios::end);
    file << std::string(64, '\0');
  }

  Workplace place;
  const std::string weights = place.path("model/model.safetensors");
  std::optional<Process> process;
};

TEST_F(RunningFinetune, OfAModelThatIsCutOffEndsWithOneLine) {
  start(100'000, {});
  cut_off();
  const Outcome outcome = process->wait();
  expect_error(outcome, 1, "rora: " + weights + ": was cut off or cannot be read any more while it was in use");
  EXPECT_NE(outcome.err.find("--no-mmap"), std::string::npos);
}

TEST_F(RunningFinetune, OfAModelThatIsOverwrittenEndsAtTheNextCheckpoint) {
  start(100'000, {"--save-every", "1000"});
  overwrite();
  expect_error(process->wait(), 1, weights + ": was written to while it was in use");
  EXPECT_FALSE(place.exists("run/adapter_model.safetensors"));
}

TEST_F(RunningFinetune, OfAModelThatIsOverwrittenEndsAtItsEndAtTheLatest) {
  start(500, {});
  overwrite();
  expect_error(process->wait(), 1, weights + ": was written to while it was in use");
  EXPECT_FALSE(place.exists("run/adapter_model.safetensors"));
}

TEST_F(RunningFinetune, OfAModelInMemoryGoesOn) {
  ASSERT_EQ(run_rora(place.finetune("whole", 300)).code, 0);
  start(300, {"--no-mmap"});
  cut_off();
  const Outcome outcome = process->wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(place.read("run/adapter_model.safetensors"), place.read("whole/adapter_model.safetensors"));
}

TEST(BusError, ThatNoFileExplainsEndsTheProcessAsEver) {
  const Workplace place;
  Process process({"chat", "--model", place.path("model")});
  process.signal(SIGBUS);
  EXPECT_EQ(process.wait().code, 128 + SIGBUS);
}

} // namespace
} // namespace rora::testing
