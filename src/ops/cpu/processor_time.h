#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace rora::ops::detail {

/// What a thread has had of the processors, in nanoseconds.
struct ProcessorTime {
  int64_t ran = 0;
  int64_t waited = 0; ///< Ready to run, while another had the processor.
};

/// By a thread's number.
using ProcessorTimes = std::map<std::string, ProcessorTime>;

/// Of all threads that have run; none where the system does not tell. `tasks` is Linux's folder of a process's threads,
/// each with a file `schedstat`.
ProcessorTimes read_processor_times(const std::filesystem::path& tasks = "/proc/self/task");

/// Tells from one look after another whether the machine is busy: by the thread that waited longest, as the others wait
/// for it in turn.
class BusyJudge {
 public:
  /// Takes the times as of now and `window`, the nanoseconds since the last call. Returns whether the machine is busy.
  bool look(const ProcessorTimes& now, int64_t window);

 private:
  static constexpr double kBusyShare = 0.15, kCalmShare = 0.08;
  static constexpr int64_t kCalmNanoseconds = 5'000'000'000;

  ProcessorTimes last_;
  int64_t calm_for_ = 0;
  bool is_busy_ = false;
};

} // namespace rora::ops::detail
