#include "processor_time.h"

#include <fstream>
#include <system_error>

namespace rora::ops::detail {

std::optional<ProcessorTime> read_processor_time(const std::filesystem::path& tasks) {
  std::error_code error;
  std::filesystem::directory_iterator task(tasks, error);
  std::optional<ProcessorTime> sum;
  for (; !error && task != std::filesystem::directory_iterator(); task.increment(error)) {
    std::ifstream file(task->path() / "schedstat");
    ProcessorTime time;
    if (file >> time.ran >> time.waited) { // not so for a thread that has ended meanwhile
      sum = sum.value_or(ProcessorTime());
      sum->ran += time.ran;
      sum->waited += time.waited;
    }
  }
  return sum;
}

bool BusyJudge::look(const ProcessorTime& now, int64_t window) {
  const int64_t ran = now.ran - last_.ran, waited = now.waited - last_.waited;
  last_ = now;
  // Less than zero where a thread has ended; and a process that hardly runs says nothing of the machine.
  if (ran < 0 || waited < 0 || ran + waited < window / 10) {
    return is_busy_;
  }
  const double share = static_cast<double>(waited) / static_cast<double>(ran + waited);
  calm_for_ = share < kCalmShare ? calm_for_ + window : 0;
  is_busy_ = share >= kBusyShare || (is_busy_ && calm_for_ < kCalmNanoseconds);
  return is_busy_;
}

} // namespace rora::ops::detail
