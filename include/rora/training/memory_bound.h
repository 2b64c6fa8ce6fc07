#pragma once

#include <cstdint>

namespace rora {

/// The memory that this process has now, in bytes, its files' pages included; 0 where Linux's /proc is missing.
int64_t resident_bytes();

/// Has the C library give back the pages that it keeps for later, as soon as a process has more memory than it should.
///
/// GNU's allocator keeps what it is given back, and a batch of another length fits it badly: a run with batches of many
/// lengths takes more and more. Taking pages anew costs the next step about a tenth of its time, so they are given back
/// only above the bound. Where that does not help, as the memory is in use or a step takes more than was thought, the
/// bound is raised.
///
///     MemoryBound bound(estimate.process(), estimate.activations + estimate.temporaries);
///     trainer.set_callback([&](const StepMetrics&) { bound.enforce(); });
class MemoryBound {
 public:
  /// `process`: bytes that the whole process should need; `step`: of these, what a step takes and frees.
  MemoryBound(int64_t process, int64_t step);

  /// To be called between steps. Returns whether the C library was asked; never with another one than GNU's.
  bool enforce();

 private:
  int64_t bound_;
  int64_t step_;
  bool has_asked_ = false; ///< in the last call
};

} // namespace rora
