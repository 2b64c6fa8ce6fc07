# The CUDA sources, relative to this folder. While the list is empty, no build enables the CUDA language.
set(RORA_KERNEL_SOURCES
  rms_norm.cu)
