#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <optional>

namespace rora::cli {

/// Waits, longer each time, so that what cannot be written may be tried again while somebody makes room.
class Patience {
 public:
  /// Writes until it is written. Throws the `FileError` that nobody mended.
  void insist(const std::function<void()>& write);

  /// False once half an hour has gone by and where a signal asks to stop; otherwise says what is the matter and waits.
  bool try_again(const std::exception& error);

 private:
  std::optional<std::chrono::steady_clock::time_point> begin_, last_;
  std::chrono::seconds wait_{1};
};

} // namespace rora::cli
