#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace rora::ops::detail {

/// What the threads of a process have had of the processors, in nanoseconds.
struct ProcessorTime {
  int64_t ran = 0;
  int64_t waited = 0; ///< Ready to run, while another had the processor.
};

/// The sum over all threads that there are now, or nothing where the system does not tell. `tasks` is Linux's folder of
/// a process's threads, each with a file `schedstat`.
std::optional<ProcessorTime> read_processor_time(const std::filesystem::path& tasks = "/proc/self/task");

/// Tells from one look after another whether the machine is busy.
class BusyJudge {
 public:
  /// Takes the sum as of now and `window`, the nanoseconds since the last call. Returns whether the machine is busy.
  bool look(const ProcessorTime& now, int64_t window);

 private:
  static constexpr double kBusyShare = 0.10, kCalmShare = 0.05;
  static constexpr int64_t kCalmNanoseconds = 5'000'000'000;

  ProcessorTime last_;
  int64_t calm_for_ = 0;
  bool is_busy_ = false;
};

} // namespace rora::ops::detail
