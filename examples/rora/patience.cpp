#include "patience.h"

#include "stop_signals.h"

#include <rora/error.h>

#include <algorithm>
#include <iostream>
#include <thread>

namespace rora::cli {

void Patience::insist(const std::function<void()>& write) {
  while (true) {
    try {
      write();
      return;
    } catch (const FileError& error) {
      if (!try_again(error)) {
        throw;
      }
    }
  }
}

bool Patience::try_again(const std::exception& error) {
  static constexpr std::chrono::seconds kLongest{60};
  static constexpr std::chrono::minutes kAll{30};
  const int received = StopSignals::received();
  const auto now = std::chrono::steady_clock::now();
  if (last_ && now - *last_ > 2 * kLongest) {
    begin_.reset(); // what was the matter then is over
    wait_ = std::chrono::seconds(1);
  }
  begin_ = begin_.value_or(now);
  if (now - *begin_ > kAll) {
    return false;
  }
  std::cout << error.what() << "; nothing is lost, all is still in memory: trying again in " << wait_.count()
            << " s, for half an hour; Ctrl-C gives up" << std::endl;
  for (const auto end = now + wait_; std::chrono::steady_clock::now() < end;) {
    if (StopSignals::received() != received) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  wait_ = std::min(2 * wait_, kLongest);
  last_ = std::chrono::steady_clock::now();
  return true;
}

} // namespace rora::cli
