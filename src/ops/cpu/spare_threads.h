#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace rora::ops::detail {

/// More OpenMP threads than there are processors, all asleep. As long as there are, GNU's libgomp lets every thread
/// spin a hundred times in place of 300,000 before it sleeps (its manual, GOMP_SPINCOUNT).
class SpareThreads {
 public:
  /// Throws `std::system_error` where the system does not give so many.
  SpareThreads();
  ~SpareThreads();
  SpareThreads(const SpareThreads&) = delete;
  SpareThreads& operator=(const SpareThreads&) = delete;

 private:
  void hold(int count);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool are_there_ = false;
  bool is_done_ = false;
  std::thread first_; ///< The others belong to it, and end with it.
};

} // namespace rora::ops::detail
