// Compiled with OpenMP, without which at::parallel_for, a template, is an ordinary loop.
#include "parallel_for.h"

#include <ATen/Parallel.h>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "LibTorch's threads are OpenMP's here: this file needs the compiler's flag for it"
#endif

namespace rora::ops::detail {

void parallel_for(int64_t count, int64_t grain, c10::function_ref<void(int64_t begin, int64_t end)> f) {
  at::parallel_for(0, count, grain, f);
}

} // namespace rora::ops::detail
