// Compiled with OpenMP.
#include "spare_threads.h"

#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace rora::ops::detail {
namespace {

/// One more than there are processors: libgomp counts a team but for its first thread, and the program's first thread.
int team_size() {
#if defined(_OPENMP)
  return omp_get_num_procs() + 1;
#else
  return 1;
#endif
}

/// Throws where so many threads cannot be had: libgomp would end the process.
void try_threads(int count) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::unique_lock lock(mutex);
  const auto join = [&] {
    lock.unlock();
    for (std::thread& thread : threads) {
      thread.join();
    }
  };
  try {
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&mutex] { const std::lock_guard wait(mutex); }); // all there at once
    }
  } catch (...) {
    join();
    throw;
  }
  join();
}

} // namespace

SpareThreads::SpareThreads() {
  const int count = team_size();
  try_threads(count);
  first_ = std::thread(&SpareThreads::hold, this, count);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return are_there_; });
}

SpareThreads::~SpareThreads() {
  {
    const std::lock_guard lock(mutex_);
    is_done_ = true;
  }
  changed_.notify_all();
  first_.join();
}

void SpareThreads::hold([[maybe_unused]] int count) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(count)
  {
    [[maybe_unused]] const int thread = omp_get_thread_num(); // a region without a statement may be left out
  }
#endif
  std::unique_lock lock(mutex_);
  are_there_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return is_done_; });
}

} // namespace rora::ops::detail
