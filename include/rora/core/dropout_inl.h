#pragma once

#include <rora/core/dropout.h>
#include <rora/core/philox.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <mutex>
#include <utility>

namespace rora::ops {

RORA_INLINE at::Tensor Dropout::apply(const at::Tensor& x) const {
  return active() ? x * mask(x.sizes(), x.options()) : x;
}

RORA_INLINE at::Tensor Dropout::mask(at::IntArrayRef sizes, const at::TensorOptions& options) const {
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

RORA_INLINE at::Generator& thread_generator() {
  thread_local at::Generator generator;
  return generator;
}

RORA_INLINE ThreadGenerator::ThreadGenerator(uint64_t seed) : ThreadGenerator(at::detail::createCPUGenerator(seed)) {}

RORA_INLINE ThreadGenerator::ThreadGenerator(at::Generator generator)
    : earlier_(std::exchange(thread_generator(), std::move(generator))) {}

RORA_INLINE ThreadGenerator::~ThreadGenerator() {
  thread_generator() = std::move(earlier_);
}

RORA_INLINE uint64_t draw_seed() {
  at::Generator generator = thread_generator().defined() ? thread_generator() : at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
}

} // namespace rora::ops
