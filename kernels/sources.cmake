# The CUDA sources, and host sources that need CUDA, relative to this folder. While the list is empty, no build enables
# the CUDA language.
set(RORA_KERNEL_SOURCES
  column_sum.cu
  cross_entropy.cu
  dora_norm.cu
  dropout.cu
  gemm_lt.cpp
  lora_grad.cu
  lora_grad_x.cu
  lora_shrink.cu
  padded_copy.cu
  partial_sums.cu
  rms_norm.cu
  rms_norm_shrink.cu
  rotary.cu
  swiglu.cu
  zero_magnitude.cu)
