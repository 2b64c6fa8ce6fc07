# Finds LibTorch as the Python wheel or the zip installs it.
set(CMAKE_CUDA_STANDARD 17)
if(NOT DEFINED TORCH_CUDA_ARCH_LIST)
  set(TORCH_CUDA_ARCH_LIST "8.0;9.0a")
endif()
if(NOT TARGET torch::cudart)
  add_library(torch::cudart INTERFACE IMPORTED GLOBAL)
endif()
find_package(Torch REQUIRED)
