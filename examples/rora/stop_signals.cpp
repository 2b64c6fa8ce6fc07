#include "stop_signals.h"

namespace rora::cli {

std::atomic<Trainer*> StopSignals::trainer_ = nullptr;
volatile std::sig_atomic_t StopSignals::received_ = 0;

StopSignals::StopSignals(Trainer* trainer) {
  trainer_ = trainer;
  struct sigaction action {};
  action.sa_handler = [](int number) {
    received_ = number;
    if (Trainer* trainer = trainer_.load()) {
      trainer->request_stop();
    }
  };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &action, &old_[i]);
  }
  if (old_.back().sa_handler == SIG_IGN) {
    ::sigaction(SIGHUP, &old_.back(), nullptr); // under nohup the run outlives its terminal
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &old_[i], nullptr);
  }
  trainer_ = nullptr;
}

StopSignals::Watch::Watch(Trainer& trainer) {
  trainer_ = &trainer;
  if (received_ != 0) {
    trainer.request_stop();
  }
}

StopSignals::Watch::~Watch() {
  trainer_ = nullptr;
}

int StopSignals::received() {
  return received_;
}

} // namespace rora::cli
