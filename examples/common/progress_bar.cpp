#include "common/progress_bar.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace rora::examples {
namespace {

constexpr int64_t kMinimumBarColumns = 10;
constexpr int64_t kMaximumBarColumns = 30;
constexpr std::chrono::milliseconds kRedrawInterval{100};

int64_t terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// What the C library would take for the locale of characters, without setting one.
bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') {
      const std::string_view locale(value);
      return locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos;
    }
  }
  return false;
}

int64_t columns_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](unsigned char byte) { return (byte & 0xC0) != 0x80; });
}

// The first `columns` characters.
std::string_view cut(std::string_view text, int64_t columns) {
  size_t end = 0;
  while (end < text.size() && columns > 0) {
    do {
      ++end;
    } while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
    --columns;
  }
  return text.substr(0, end);
}

std::string bar(double share, int64_t columns, bool ascii) {
  const auto halves = static_cast<int64_t>(std::floor(share * static_cast<double>(2 * columns)));
  std::string result;
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t filled = halves - 2 * column;
    if (ascii) {
      result += filled >= 2 ? '=' : filled == 1 ? '>' : '-';
    } else {
      result += filled >= 2 ? "━" : filled == 1 ? "╸" : "─";
    }
  }
  return result;
}

} // namespace

bool stderr_is_terminal() {
  const char* kind = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && (kind == nullptr || std::string_view(kind) != "dumb");
}

std::string format_duration(double seconds) {
  const long whole = std::lround(std::max(seconds, 0.0));
  char text[32];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", whole / 60, whole % 60);
  }
  return text;
}

std::string progress_line(const Progress& progress, int64_t columns, bool ascii) {
  const double share = progress.total > 0
      ? std::clamp(static_cast<double>(progress.done) / static_cast<double>(progress.total), 0.0, 1.0)
      : 0.0;
  char percent[16];
  std::snprintf(percent, sizeof percent, " %3.0f%% ", std::floor(100.0 * share));
  std::string rest = percent + std::to_string(progress.done) + "/" + std::to_string(progress.total) + " " +
      format_duration(progress.seconds);
  if (progress.seconds_left) {
    rest += " < " + format_duration(*progress.seconds_left);
  }
  if (!progress.detail.empty()) {
    rest += " " + progress.detail;
  }
  const std::string start = progress.label.empty() ? "" : progress.label + " ";
  const int64_t room = columns - columns_of(start) - columns_of(rest);
  return std::string(
      cut(start + bar(share, std::clamp(room, kMinimumBarColumns, kMaximumBarColumns), ascii) + rest, columns));
}

ProgressBar::ProgressBar(std::string label, int64_t total, int64_t already_done)
    : already_done_(already_done), terminal_(stderr_is_terminal()), ascii_(!locale_is_utf8()) {
  progress_.label = std::move(label);
  progress_.total = total;
  progress_.done = already_done;
}

ProgressBar::~ProgressBar() {
  clear();
}

void ProgressBar::update(int64_t done, std::string_view detail) {
  progress_.done = done;
  progress_.detail = detail;
  const auto now = Clock::now();
  if (terminal_ && (!drawn_ || done >= progress_.total || now - drawn_at_ >= kRedrawInterval)) {
    draw();
    drawn_at_ = now;
  }
}

void ProgressBar::set_label(std::string label) {
  progress_.label = std::move(label);
}

void ProgressBar::clear() {
  if (drawn_) {
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
    drawn_ = false;
  }
}

void ProgressBar::finish() {
  if (terminal_) {
    draw();
    std::fputs("\n", stderr);
    std::fflush(stderr);
    drawn_ = false;
  }
}

void ProgressBar::draw() {
  progress_.seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  const int64_t now_done = progress_.done - already_done_;
  const int64_t left = progress_.total - progress_.done;
  progress_.seconds_left.reset();
  if (now_done > 0 && left > 0) {
    progress_.seconds_left = progress_.seconds * static_cast<double>(left) / static_cast<double>(now_done);
  }
  // A line as wide as the terminal would wrap where the cursor stands behind it.
  std::fprintf(stderr, "\r%s\x1b[K", progress_line(progress_, terminal_columns() - 1, ascii_).c_str());
  std::fflush(stderr);
  drawn_ = true;
}

} // namespace rora::examples
