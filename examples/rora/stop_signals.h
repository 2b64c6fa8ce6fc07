#pragma once

#include <rora/training/trainer.h>

#include <array>
#include <atomic>
#include <csignal>

namespace rora::cli {

/// Notes Ctrl-C, SIGTERM or a terminal's end while it lives, and asks the trainer that it watches, if any, to stop; a
/// second signal of the kind ends the process at once. One at a time.
class StopSignals {
 public:
  explicit StopSignals(Trainer* trainer = nullptr);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Has another trainer stopped while it lives, at once where a signal has come.
  class Watch {
   public:
    explicit Watch(Trainer& trainer);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
  };

  /// The one that came last, 0 where none did.
  static int received();

 private:
  static constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};
  static std::atomic<Trainer*> trainer_;
  static volatile std::sig_atomic_t received_;
  std::array<struct sigaction, kSignals.size()> old_{};
};

} // namespace rora::cli
