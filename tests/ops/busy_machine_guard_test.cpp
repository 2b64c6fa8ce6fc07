#include "ops/cpu/parallel_for.h"
#include "ops/cpu/processor_time.h"
#include "ops/cpu/spare_threads.h"

#include <rora/ops/busy_machine_guard.h>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <sys/prctl.h>
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
#include <iterator>
#include <thread>
#include <vector>

namespace rora::ops {
namespace {

using detail::BusyJudge;
using detail::ProcessorTimes;
using detail::SpareThreads;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr int64_t kWindow = 200'000'000;

/// Looks at `windows` windows in which a thread ran and waited for so many of every 100 nanoseconds, beside one that
/// ran all the time.
bool look(BusyJudge& judge, ProcessorTimes& times, int64_t ran, int64_t waited, int windows) {
  bool is_busy = false;
  for (int i = 0; i < windows; ++i) {
    times["1"].ran += kWindow;
    times["2"].ran += ran * kWindow / 100;
    times["2"].waited += waited * kWindow / 100;
    is_busy = judge.look(times, kWindow);
  }
  return is_busy;
}

TEST(BusyJudge, GoesByTheThreadThatWaitedLongest) {
  BusyJudge judge;
  ProcessorTimes times;
  EXPECT_FALSE(look(judge, times, 95, 5, 50));
  EXPECT_FALSE(look(judge, times, 90, 10, 50)); // neither
  EXPECT_TRUE(look(judge, times, 80, 20, 1));
  EXPECT_TRUE(look(judge, times, 90, 10, 50)); // stays as it was
  EXPECT_TRUE(look(judge, times, 95, 5, 24));
  EXPECT_TRUE(look(judge, times, 90, 10, 1)); // counts anew
  EXPECT_TRUE(look(judge, times, 95, 5, 24));
  EXPECT_FALSE(look(judge, times, 95, 5, 1));
}

TEST(BusyJudge, LearnsNothingFromWhatWasBeforeNorFromThreadsThatSleepOrEnd) {
  BusyJudge judge;
  ProcessorTimes times{{"1", {kWindow, 50 * kWindow}}};
  EXPECT_FALSE(judge.look(times, kWindow));
  EXPECT_FALSE(look(judge, times, 1, 5, 50));
  EXPECT_TRUE(look(judge, times, 50, 50, 1));
  EXPECT_TRUE(judge.look({}, kWindow));
  EXPECT_TRUE(judge.look({{"3", {0, kWindow}}}, kWindow));
}

TEST(ProcessorTimes, AreThoseOfThreadsThatRanAndNoneWhereTheSystemDoesNotTell) {
  const std::filesystem::path tasks = std::filesystem::path(::testing::TempDir()) / "tasks_of_processor_time";
  std::filesystem::remove_all(tasks);
  EXPECT_TRUE(detail::read_processor_times(tasks).empty());
  for (const char* const thread : {"1", "2", "3", "4"}) {
    std::filesystem::create_directories(tasks / thread);
  }
  std::ofstream(tasks / "2" / "schedstat") << "0 0 0\n";
  EXPECT_TRUE(detail::read_processor_times(tasks).empty());
  std::ofstream(tasks / "1" / "schedstat") << "10 20 3\n";
  std::ofstream(tasks / "3" / "schedstat") << "100 200 3\n";
  const ProcessorTimes times = detail::read_processor_times(tasks);
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times.at("1").ran, 10);
  EXPECT_EQ(times.at("3").waited, 200);
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
  if (at::get_num_threads() < 2 || std::getenv("GOMP_SPINCOUNT") != nullptr ||
      std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("OMP_NUM_THREADS") != nullptr) {
    GTEST_SKIP() << "one thread, or the environment says how threads wait";
  }
  int64_t spun = 0, slept = seconds(1) / std::chrono::nanoseconds(1);
  for (int i = 0; i < 20; ++i) {
    spun = std::max(spun, processor_time_of(sleep_after_a_parallel_region));
    const SpareThreads spare;
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
      if (child < 0) {
        ADD_FAILURE() << "no process can be had";
        return;
      }
      if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
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

int64_t threads_of_this_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

TEST(BusyMachineGuard, HoldsSpareThreadsWhereOtherProcessesWantTheProcessors) {
  if (detail::read_processor_times().empty()) {
    GTEST_SKIP() << "this system does not tell how long threads wait";
  }
  const BusyProcesses others;
  detail::parallel_for(1000, 1, [](int64_t, int64_t) {}); // the threads that compute
  const int64_t before = threads_of_this_process();
  const BusyMachineGuard guard;
  const auto end = steady_clock::now() + seconds(60);
  const auto has_spare_threads = [&] {
    const auto are_there = [&] { return threads_of_this_process() > before + 1; }; // the guard has one of its own
    const bool at_once = are_there();
    std::this_thread::sleep_for(milliseconds(100)); // threads that are only tried have ended then
    return at_once && are_there();
  };
  bool holds = false;
  while (!holds && steady_clock::now() < end) {
    detail::parallel_for(1000, 1, [](int64_t begin, int64_t stop) {
      std::atomic<int64_t> n = 0;
      while (n.fetch_add(1, std::memory_order_relaxed) < (stop - begin) * 100) {
      }
    });
    holds = guard.is_busy() && has_spare_threads();
  }
  EXPECT_TRUE(holds);
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
