#pragma once

#include "fastest_form.h"

#include <kernels/timing.h>

#include <ATen/Context.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>

// Needs CUDA.
namespace rora::ops::detail {

/// The fastest of `count` forms, by one trial of each on the current stream where the shape is new; 0 where nothing may
/// be timed. run(form) says whether it works.
template <class Shape, class Run>
int form_by_trial(FastestForms<Shape>& known, const Shape& shape, int count, const Run& run) {
  if (at::globalContext().deterministicAlgorithms()) { // a trial may end another way in another run
    return 0;
  }
  const bool may_time = c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None;
  return known.choose(shape, count, may_time, [&](int form) {
    return kernels::cuda::milliseconds(c10::cuda::getCurrentCUDAStream(), [&] { return run(form); });
  });
}

} // namespace rora::ops::detail
