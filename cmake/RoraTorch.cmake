# Finds LibTorch, as the Python wheel or the zip installs it, for this project and for the consumers of its package.
# Sets Torch_FOUND; whoever includes this file says what a missing LibTorch means. Link the target `torch`:
# ${TORCH_LIBRARIES} holds absolute paths. A project that compiles CUDA through Torch's own configuration calls
# find_package(Torch) before this.

# The architectures to build kernels for. Torch's own guess, where no GPU is present, names some that CUDA 13 rejects.
if(NOT DEFINED TORCH_CUDA_ARCH_LIST)
  if(DEFINED ENV{TORCH_CUDA_ARCH_LIST})
    set(TORCH_CUDA_ARCH_LIST "$ENV{TORCH_CUDA_ARCH_LIST}")
  else()
    set(TORCH_CUDA_ARCH_LIST "8.0;9.0a")
  endif()
endif()

if(TARGET torch)
  set(Torch_FOUND TRUE)
else()
  # A CUDA LibTorch refuses to configure without a CUDA toolkit unless this target exists. What uses the CUDA runtime
  # here links CUDA::cudart itself.
  if(NOT TARGET torch::cudart)
    add_library(torch::cudart INTERFACE IMPORTED GLOBAL)
  endif()
  # Torch's configuration looks for a static kineto, which no package ships, to name it in ${TORCH_LIBRARIES}. Naming a
  # library that is there already saves every reader its warning.
  if(NOT kineto_LIBRARY)
    set(kineto_LIBRARY c10 CACHE STRING "Stands for the static kineto that LibTorch does not ship" FORCE)
    mark_as_advanced(kineto_LIBRARY)
  endif()
  # Imported targets are seen only below the directory that finds them; a project that adds this one by
  # add_subdirectory or FetchContent links `torch` through rora.
  set(_rora_targets_global "${CMAKE_FIND_PACKAGE_TARGETS_GLOBAL}")
  set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL TRUE)
  find_package(Torch 2.11 QUIET CONFIG)
  set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL "${_rora_targets_global}")
  # Without MKL, Torch's configuration leaves link directories that begin at an empty root: /lib/intel64 in every
  # runpath.
  if(TARGET caffe2::mkl AND NOT MKL_FOUND)
    set_property(TARGET caffe2::mkl PROPERTY INTERFACE_LINK_DIRECTORIES "")
  endif()
endif()
