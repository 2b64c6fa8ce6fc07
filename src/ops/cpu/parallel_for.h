#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace rora::ops::detail {

/// f over [0, count) in stretches of at least `grain`, on LibTorch's threads.
void parallel_for(int64_t count, int64_t grain, c10::function_ref<void(int64_t begin, int64_t end)> f);

} // namespace rora::ops::detail
