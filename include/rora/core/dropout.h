#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rora::ops {

/// A dropout mask that follows from its seed: element i of the flattened tensor is kept where word i mod 4 of
/// Philox(seed, i / 4) is at least p·2³². Forward and backward make it anew instead of storing it.
struct Dropout {
  double p = 0.0; ///< the probability of dropping an element
  uint64_t seed = 0;

  bool active() const {
    return p > 0.0;
  }

  /// `x` with dropped elements zeroed and the others divided by 1 − p.
  at::Tensor apply(const at::Tensor& x) const;

  /// 0 where dropped and 1 / (1 − p) where kept.
  at::Tensor mask(at::IntArrayRef sizes, const at::TensorOptions& options) const;
};

/// Where this thread draws its seeds instead of LibTorch's default CPU generator; undefined for most threads.
at::Generator& thread_generator();

/// While it lives, the thread that made it draws its seeds from a generator of its own: models that are trained side by
/// side in threads then do not take each other's. It must end on that thread.
class ThreadGenerator {
 public:
  /// Gives the seeds that the default generator would give after `torch::manual_seed(seed)`.
  explicit ThreadGenerator(uint64_t seed);
  explicit ThreadGenerator(at::Generator generator);
  ~ThreadGenerator();
  ThreadGenerator(const ThreadGenerator&) = delete;
  ThreadGenerator& operator=(const ThreadGenerator&) = delete;

 private:
  at::Generator earlier_;
};

/// A seed from LibTorch's default CPU generator, so that `torch::manual_seed` decides every mask, or from the thread's
/// own.
uint64_t draw_seed();

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/dropout_inl.h>
#endif
