#pragma once

#include <memory>

namespace rora::ops {

/// While one lives, the CPU's threads wait for one another asleep, not spinning, whenever other processes want the
/// processors too.
///
/// OpenMP's threads spin for some milliseconds at the end of a parallel region before they sleep, which is fastest
/// where nothing else runs. Elsewhere a thread spins for another that has no processor, and a training step, which ends
/// such a region a thousand times, takes several times what its share of the processors would need. A guard looks every
/// 0.2 seconds how long this process's threads ran and how long they were ready and had to wait for a processor. The
/// machine is busy from a wait of a tenth of the sum on, until it has been less than a twentieth for 5 seconds.
///
/// Results do not depend on it, and neither does the number of threads. It needs Linux's /proc/self/task/TID/schedstat
/// and GNU's libgomp, LibTorch's own, and does nothing without them. OMP_WAIT_POLICY and GOMP_SPINCOUNT of the
/// environment count as ever: the wait is the shorter one.
///
/// The rora binary makes one for all that computes; a program of your own makes one in main:
///
///     const rora::ops::BusyMachineGuard guard;
///
/// It has a thread of its own; on a busy machine, two more and one for each processor that this process leaves alone,
/// all asleep.
class BusyMachineGuard {
 public:
  BusyMachineGuard();
  ~BusyMachineGuard();
  BusyMachineGuard(const BusyMachineGuard&) = delete;
  BusyMachineGuard& operator=(const BusyMachineGuard&) = delete;

  /// Whether other processes want the processors too, as of the last look.
  bool is_busy() const;

 private:
  class Watch;
  std::unique_ptr<Watch> watch_;
};

} // namespace rora::ops
