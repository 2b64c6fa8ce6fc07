#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rora::examples {

/// Whether stderr is a terminal that can redraw a line.
bool stderr_is_terminal();

/// "1:05", "2:03:09": minutes and seconds, with hours where there are any.
std::string format_duration(double seconds);

/// What a progress bar shows. `detail` stands last: loss, tokens/s.
struct Progress {
  std::string label;
  int64_t done = 0;
  int64_t total = 0;
  double seconds = 0.0; ///< since the start
  std::optional<double> seconds_left;
  std::string detail;
};

/// The line of a progress bar, at most `columns` wide: "LABEL ━━━━━╸──────  42% 21/50 0:03 < 0:05 DETAIL". What does
/// not fit is cut off at the end. With `ascii` the bar is made of '=', '>' and '-'.
std::string progress_line(const Progress& progress, int64_t columns, bool ascii);

/// A progress bar on stderr, redrawn in place at most ten times a second. Where stderr is no terminal it writes
/// nothing: the caller prints plain lines where it wants them. One bar at a time; the line it is on belongs to it until
/// `clear` or `finish`.
class ProgressBar {
 public:
  /// `already_done` of `total` were done by an earlier run: they count for the share, not for the speed.
  ProgressBar(std::string label, int64_t total, int64_t already_done = 0);
  /// Clears a bar that was not finished.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t done, std::string_view detail = {});

  /// Another label, from the next drawing on.
  void set_label(std::string label);

  /// Takes the bar off the terminal, so that a line can be printed; the next update draws it again.
  void clear();

  /// Leaves the bar standing as it is now, the line ended.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  void draw();

  Progress progress_;
  int64_t already_done_;
  Clock::time_point started_ = Clock::now();
  Clock::time_point drawn_at_{};
  bool terminal_;
  bool ascii_;
  bool drawn_ = false;
};

} // namespace rora::examples
