#include "processor_time.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <system_error>

namespace rora::ops::detail {

ProcessorTimes read_processor_times(const std::filesystem::path& tasks) {
  std::error_code error;
  std::filesystem::directory_iterator task(tasks, error);
  ProcessorTimes times;
  for (; !error && task != std::filesystem::directory_iterator(); task.increment(error)) {
    std::ifstream file(task->path() / "schedstat");
    ProcessorTime time;
    if (file >> time.ran >> time.waited && time.ran > 0) { // not so for a thread that has ended meanwhile
      times[task->path().filename().string()] = time;
    }
  }
  return times;
}

bool BusyJudge::look(const ProcessorTimes& now, int64_t window) {
  std::optional<double> most; // the share of a thread's time in which it waited
  for (const auto& [thread, time] : now) {
    const auto before = last_.find(thread);
    if (before == last_.end()) {
      continue;
    }
    const int64_t ran = time.ran - before->second.ran, waited = time.waited - before->second.waited;
    if (ran >= 0 && waited >= 0 && ran + waited >= window / 10) { // one that hardly runs says nothing of the machine
      most = std::max(most.value_or(0.0), static_cast<double>(waited) / static_cast<double>(ran + waited));
    }
  }
  last_ = now;
  if (most) {
    calm_for_ = *most < kCalmShare ? calm_for_ + window : 0;
    is_busy_ = *most >= kBusyShare || (is_busy_ && calm_for_ < kCalmNanoseconds);
  }
  return is_busy_;
}

} // namespace rora::ops::detail
