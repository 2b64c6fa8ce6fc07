#include <rora/ops/busy_machine_guard.h>

#include "cpu/processor_time.h"
#include "cpu/spare_threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

namespace rora::ops {

class BusyMachineGuard::Watch {
 public:
  Watch() : thread_(&Watch::run, this) {}

  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      is_done_ = true;
    }
    done_.notify_all();
    thread_.join();
  }

  std::atomic<bool> is_busy = false;

 private:
  void run() {
    constexpr std::chrono::milliseconds kWindow(200);
    using Clock = std::chrono::steady_clock;
    detail::BusyJudge judge;
    std::optional<detail::SpareThreads> spare;
    auto last = Clock::now();
    do {
      try {
        const detail::ProcessorTimes times = detail::read_processor_times();
        if (times.empty()) {
          continue;
        }
        const auto now = Clock::now();
        is_busy = judge.look(times, std::chrono::nanoseconds(now - last).count());
        last = now;
        if (!is_busy) {
          spare.reset();
        } else if (!spare) {
          spare.emplace();
        }
      } catch (const std::exception&) { // no memory or no more threads: they spin on, and the next window tries again
      }
    } while (!is_over(kWindow));
  }

  /// Waits for the end, but no longer than for `window`.
  bool is_over(std::chrono::milliseconds window) {
    std::unique_lock lock(mutex_);
    return done_.wait_for(lock, window, [this] { return is_done_; });
  }

  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false;
  std::thread thread_;
};

BusyMachineGuard::BusyMachineGuard() : watch_(std::make_unique<Watch>()) {}
BusyMachineGuard::~BusyMachineGuard() = default;

bool BusyMachineGuard::is_busy() const {
  return watch_->is_busy;
}

} // namespace rora::ops
