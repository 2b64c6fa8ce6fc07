#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace rora::ops::detail {

/// As many OpenMP threads, all asleep, as make more of them than there are processors. As long as there are, GNU's
/// libgomp lets every thread spin a hundred times in place of 300,000 before it sleeps (its manual, GOMP_SPINCOUNT).
class SpareThreads {
 public:
  /// Beside `used` threads that compute. Throws `std::system_error` where the system gives no more.
  explicit SpareThreads(int used);
  ~SpareThreads();
  SpareThreads(const SpareThreads&) = delete;
  SpareThreads& operator=(const SpareThreads&) = delete;

 private:
  void hold(int used);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool are_there_ = false;
  bool is_done_ = false;
  std::thread first_; ///< The others belong to it, and end with it.
};

} // namespace rora::ops::detail
