#include "ops/cpu/parallel_for.h"
#include "ops/cpu/processor_time.h"
#include "ops/cpu/spare_threads.h"

#include <rora/ops/busy_machine_guard.h>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

namespace rora::ops {
namespace {

using detail::BusyJudge;
using detail::ProcessorTime;
using detail::SpareThreads;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr int64_t kWindow = 200'000'000;

/// Looks at `windows` windows in which threads ran and waited for so many of every 100 nanoseconds.
bool look(BusyJudge& judge, ProcessorTime& time, int64_t ran, int64_t waited, int windows) {
  bool is_busy = false;
  for (int i = 0; i < windows; ++i) {
    time.ran += ran * kWindow / 100;
    time.waited += waited * kWindow / 100;
    is_busy = judge.look(time, kWindow);
  }
  return is_busy;
}

TEST(BusyJudge, IsBusyFromATenthOfTheTimeAndCalmAfterFiveSecondsBelowATwentieth) {
  BusyJudge judge;
  ProcessorTime time;
  EXPECT_FALSE(look(judge, time, 190, 10, 50));
  EXPECT_FALSE(look(judge, time, 184, 16, 50)); // neither
  EXPECT_TRUE(look(judge, time, 180, 21, 1));
  EXPECT_TRUE(look(judge, time, 184, 16, 50)); // stays as it was
  EXPECT_TRUE(look(judge, time, 196, 4, 24));
  EXPECT_TRUE(look(judge, time, 184, 16, 1)); // counts anew
  EXPECT_TRUE(look(judge, time, 196, 4, 24));
  EXPECT_FALSE(look(judge, time, 196, 4, 1));
}

TEST(BusyJudge, LearnsNothingFromAProcessThatSleepsNorFromAThreadThatEnded) {
  BusyJudge judge;
  ProcessorTime time;
  EXPECT_FALSE(look(judge, time, 1, 5, 50));
  EXPECT_TRUE(look(judge, time, 50, 50, 1));
  EXPECT_TRUE(look(judge, time, 1, 0, 50));
  EXPECT_TRUE(look(judge, time, -50, -50, 1));
}

TEST(ProcessorTime, IsTheSumOverTheThreadsAndNothingWhereTheSystemDoesNotTell) {
  const std::filesystem::path tasks = std::filesystem::path(::testing::TempDir()) / "tasks_of_processor_time";
  std::filesystem::remove_all(tasks);
  EXPECT_FALSE(detail::read_processor_time(tasks));
  for (const char* const thread : {"1", "2", "3"}) {
    std::filesystem::create_directories(tasks / thread);
  }
  EXPECT_FALSE(detail::read_processor_time(tasks));
  std::ofstream(tasks / "1" / "schedstat") << "10 20 3\n";
  std::ofstream(tasks / "3" / "schedstat") << "100 200 3\n";
  const std::optional<ProcessorTime> time = detail::read_processor_time(tasks);
  ASSERT_TRUE(time);
  EXPECT_EQ(time->ran, 110);
  EXPECT_EQ(time->waited, 220);
  std::filesystem::remove_all(tasks);
}

/// Nanoseconds of the processors that this process uses while f runs.
int64_t processor_time_of(const std::function<void()>& f) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
  };
  const int64_t begin = now();
  f();
  return now() - begin;
}

void sleep_after_a_parallel_region() {
  detail::parallel_for(2, 1, [](int64_t, int64_t) {});
  std::this_thread::sleep_for(milliseconds(5));
}

TEST(SpareThreads, LetTheOthersSleepAtOnce) {
  const int used = at::get_num_threads();
  if (used < 2 || std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr ||
      std::getenv("OMP_NUM_THREADS") != nullptr) {
    GTEST_SKIP() << "one thread, or the environment says how threads wait";
  }
  int64_t spun = 0, slept = seconds(1) / std::chrono::nanoseconds(1);
  for (int i = 0; i < 20; ++i) {
    spun = std::max(spun, processor_time_of(sleep_after_a_parallel_region));
    const SpareThreads spare(used);
    sleep_after_a_parallel_region(); // begins to spin before the spare threads are counted
    slept = std::min(slept, processor_time_of(sleep_after_a_parallel_region));
  }
  EXPECT_GT(spun, 1'000'000);
  EXPECT_LT(slept, spun / 3);
}

[[noreturn]] void run_forever() {
  std::atomic<int64_t> n = 0;
  while (true) {
    n.fetch_add(1, std::memory_order_relaxed);
  }
}

/// Two processes a processor that do nothing but run.
class BusyProcesses {
 public:
  BusyProcesses() {
    for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i) {
      const pid_t child = fork();
      if (child == 0) {
        alarm(120); // should the test be killed
        run_forever();
      }
      children_.push_back(child);
    }
  }
  ~BusyProcesses() {
    for (const pid_t child : children_) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
  }

 private:
  std::vector<pid_t> children_;
};

TEST(BusyMachineGuard, IsBusyWhereOtherProcessesWantTheProcessors) {
  if (!detail::read_processor_time()) {
    GTEST_SKIP() << "this system does not tell how long threads wait";
  }
  const BusyProcesses others;
  const BusyMachineGuard guard;
  const auto end = steady_clock::now() + seconds(60);
  while (!guard.is_busy() && steady_clock::now() < end) {
    detail::parallel_for(1000, 1, [](int64_t begin, int64_t stop) {
      std::atomic<int64_t> n = 0;
      while (n.fetch_add(1, std::memory_order_relaxed) < (stop - begin) * 100) {
      }
    });
  }
  EXPECT_TRUE(guard.is_busy());
}

TEST(BusyMachineGuard, EndsAtOnce) {
  const auto begin = steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    const BusyMachineGuard guard;
  }
  EXPECT_LT(steady_clock::now() - begin, seconds(3)); // 20 windows are 4
}

} // namespace
} // namespace rora::ops
