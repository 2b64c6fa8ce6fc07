#include <rora/ops/busy_machine_guard.h>

#include "cpu/processor_time.h"
#include "cpu/spare_threads.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <system_error>
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
    constexpr int64_t kNanoseconds = std::chrono::nanoseconds(kWindow).count();
    detail::BusyJudge judge;
    std::optional<detail::SpareThreads> spare;
    std::unique_lock lock(mutex_);
    while (const auto time = detail::read_processor_time()) {
      is_busy = judge.look(*time, kNanoseconds);
      if (!is_busy) {
        spare.reset();
      } else if (!spare) {
        try {
          spare.emplace(at::get_num_threads());
        } catch (const std::system_error&) { // no more threads: they spin on, and the next window tries again
        }
      }
      if (done_.wait_for(lock, kWindow, [this] { return is_done_; })) {
        return;
      }
    }
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
