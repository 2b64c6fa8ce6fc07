#pragma once

#include <memory>

namespace rora::ops {

/// While one lives, the CPU's threads wait for one another asleep, not spinning, whenever threads of this process have
/// to wait for a processor.
///
/// OpenMP's threads spin for some milliseconds at the end of a parallel region before they sleep, which is fastest
/// where nothing else runs. Elsewhere a thread spins for another that has no processor, and a training step, which ends
/// such a region a thousand times, takes several times what its share of the processors would need. A guard looks every
/// 0.2 seconds how long each thread ran and how long it was ready and had to wait for a processor. The machine is busy
/// as soon as one waited for 15% of that sum, until none has waited for 8% during 5 seconds.
///
/// Results do not depend on it, and neither does the number of threads that compute. It needs Linux's
/// /proc/self/task/TID/schedstat, without which it does nothing, and GNU's libgomp, which is LibTorch's: another OpenMP
/// library's threads wait as before. OMP_WAIT_POLICY and GOMP_SPINCOUNT of the environment count as ever: the wait is
/// the shorter one.
///
/// The rora binary makes one for all that computes on several threads; a program of your own makes one in main, after
/// any fork:
///
///     const rora::ops::BusyMachineGuard guard;
///
/// It has a thread of its own, and on a busy machine two more and one for each processor, all asleep.
class BusyMachineGuard {
 public:
  BusyMachineGuard();
  ~BusyMachineGuard();
  BusyMachineGuard(const BusyMachineGuard&) = delete;
  BusyMachineGuard& operator=(const BusyMachineGuard&) = delete;

  /// Whether threads of this process had to wait for a processor, as of the last look.
  bool is_busy() const;

 private:
  class Watch;
  std::unique_ptr<Watch> watch_;
};

} // namespace rora::ops
