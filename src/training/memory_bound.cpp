#include <rora/training/memory_bound.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <utility>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace rora {
namespace {

/// How far above what it should need a process may be.
int64_t with_margin(int64_t bytes) {
  return bytes + bytes / 20;
}

} // namespace

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  return file >> all >> resident ? resident * sysconf(_SC_PAGESIZE) : 0;
}

MemoryBound::MemoryBound(int64_t process, int64_t step) : bound_(with_margin(process)), step_(step) {}

bool MemoryBound::enforce() {
#if defined(__GLIBC__)
  const bool has_asked = std::exchange(has_asked_, resident_bytes() > bound_);
  if (!has_asked_) {
    return false;
  }
  malloc_trim(0);
  step_ = has_asked ? 2 * step_ : step_;
  bound_ = std::max(bound_, with_margin(resident_bytes() + step_));
  return true;
#else
  return false;
#endif
}

} // namespace rora
