// Compiled with OpenMP.
#include "spare_threads.h"

#include <algorithm>
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace rora::ops::detail {

SpareThreads::SpareThreads(int used) : first_(&SpareThreads::hold, this, used) {
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

void SpareThreads::hold([[maybe_unused]] int used) {
#if defined(_OPENMP)
  // libgomp counts a team but for its first thread, and the program's first thread once.
  const int team = std::max(2, omp_get_num_procs() - used + 2);
#pragma omp parallel num_threads(team)
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
