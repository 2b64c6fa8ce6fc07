#pragma once

#include <c10/cuda/CUDAFunctions.h>

namespace rora::testing {

/// While it lives, LibTorch throws where the program would wait for the GPU.
class NoWaiting {
 public:
  NoWaiting() {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR);
  }
  ~NoWaiting() {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
  }
  NoWaiting(const NoWaiting&) = delete;
  NoWaiting& operator=(const NoWaiting&) = delete;
};

} // namespace rora::testing
