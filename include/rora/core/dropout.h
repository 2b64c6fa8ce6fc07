#pragma once

#include <rora/core/philox.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <mutex>
#include <utility>

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
  at::Tensor apply(const at::Tensor& x) const {
    return active() ? x * mask(x.sizes(), x.options()) : x;
  }

  /// 0 where dropped and 1 / (1 − p) where kept.
  at::Tensor mask(at::IntArrayRef sizes, const at::TensorOptions& options) const {
    at::Tensor kept = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
    float* data = kept.data_ptr<float>();
    const int64_t count = kept.numel();
    const double limit = p * 4294967296.0;
    const auto threshold = static_cast<uint64_t>(limit);
    const float scale = p < 1.0 ? static_cast<float>(1.0 / (1.0 - p)) : 0.0f;
    constexpr int64_t kWords = 4;
    at::parallel_for(0, (count + kWords - 1) / kWords, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const Philox random = Philox::generate(seed, static_cast<uint64_t>(block));
        for (int64_t word = 0; word < kWords && block * kWords + word < count; ++word) {
          data[block * kWords + word] = random.word[word] >= threshold ? scale : 0.0f;
        }
      }
    });
    return kept.to(options);
  }
};

/// Where this thread draws its seeds instead of LibTorch's default CPU generator; undefined for most threads.
inline at::Generator& thread_generator() {
  thread_local at::Generator generator;
  return generator;
}

/// While it lives, the thread that made it draws its seeds from a generator of its own: models that are trained side by side
/// in threads then do not take each other's. It must end on that thread.
class ThreadGenerator {
 public:
  /// Gives the seeds that the default generator would give after `torch::manual_seed(seed)`.
  explicit ThreadGenerator(uint64_t seed) : ThreadGenerator(at::detail::createCPUGenerator(seed)) {}
  explicit ThreadGenerator(at::Generator generator) : earlier_(std::exchange(thread_generator(), std::move(generator))) {}
  ~ThreadGenerator() {
    thread_generator() = std::move(earlier_);
  }
  ThreadGenerator(const ThreadGenerator&) = delete;
  ThreadGenerator& operator=(const ThreadGenerator&) = delete;

 private:
  at::Generator earlier_;
};

/// A seed from LibTorch's default CPU generator, so that `torch::manual_seed` decides every mask, or from the thread's own.
inline uint64_t draw_seed() {
  at::Generator generator =
      thread_generator().defined() ? thread_generator() : at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
}

} // namespace rora::ops
