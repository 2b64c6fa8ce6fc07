# Decides RORA_CUDA: on by default where a CUDA toolkit and a LibTorch built for the same major version of CUDA are
# there. The CUDA language is enabled only once kernels/sources.cmake lists a source, so a build without kernels never
# runs nvcc.
find_package(CUDAToolkit QUIET)

# The wheel says its CUDA version in version.py; a zip does not, and is taken to match.
set(_rora_torch_cuda "${CUDAToolkit_VERSION_MAJOR}")
if(TARGET torch_cuda AND EXISTS "${Torch_DIR}/../../../version.py")
  file(STRINGS "${Torch_DIR}/../../../version.py" _rora_line REGEX "^cuda.*[0-9]")
  string(REGEX MATCH "[0-9]+" _rora_torch_cuda "${_rora_line}")
endif()

set(_rora_cuda_obstacle "")
if(NOT TARGET torch_cuda)
  set(_rora_cuda_obstacle "this LibTorch is built for the CPU only")
elseif(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
  set(_rora_cuda_obstacle "no CUDA toolkit was found")
elseif(NOT CUDAToolkit_VERSION_MAJOR STREQUAL _rora_torch_cuda)
  set(_rora_cuda_obstacle "LibTorch is built for CUDA ${_rora_torch_cuda}, the toolkit is ${CUDAToolkit_VERSION}")
endif()

if(_rora_cuda_obstacle)
  set(_rora_cuda_default OFF)
else()
  set(_rora_cuda_default ON)
endif()
option(RORA_CUDA "Build the CUDA kernels (default: when a CUDA toolkit and a CUDA LibTorch are there)" ${_rora_cuda_default})
if(RORA_CUDA AND _rora_cuda_obstacle)
  message(FATAL_ERROR "RORA_CUDA is on, but ${_rora_cuda_obstacle}. Configure with -DRORA_CUDA=OFF to build without kernels.")
endif()

include("${PROJECT_SOURCE_DIR}/kernels/sources.cmake")
list(TRANSFORM RORA_KERNEL_SOURCES PREPEND "${PROJECT_SOURCE_DIR}/kernels/")
if(NOT RORA_CUDA)
  set(RORA_KERNEL_SOURCES "")
endif()
if(RORA_KERNEL_SOURCES)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    string(REPLACE "." "" CMAKE_CUDA_ARCHITECTURES "${TORCH_CUDA_ARCH_LIST}")
    string(REGEX REPLACE "[ ,]+" ";" CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
    string(REPLACE "+PTX" "" CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 does not know nvcc's 20

  # A toolkit may be without cuBLASLt; LibTorch's wheel comes with its own.
  if(NOT TARGET CUDA::cublasLt)
    set(_rora_wheel "${Torch_DIR}/../../../../nvidia/cu${CUDAToolkit_VERSION_MAJOR}")
    find_library(RORA_CUBLASLT_LIBRARY "libcublasLt.so.${CUDAToolkit_VERSION_MAJOR}"
      PATHS "${_rora_wheel}/lib" REQUIRED)
    find_path(RORA_CUBLASLT_INCLUDE_DIR cublasLt.h PATHS "${_rora_wheel}/include" REQUIRED)
    add_library(CUDA::cublasLt UNKNOWN IMPORTED)
    set_target_properties(CUDA::cublasLt PROPERTIES
      IMPORTED_LOCATION "${RORA_CUBLASLT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${RORA_CUBLASLT_INCLUDE_DIR}")
  endif()
endif()

if(_rora_cuda_obstacle)
  message(STATUS "CUDA: off, as ${_rora_cuda_obstacle}")
elseif(RORA_CUDA)
  list(LENGTH RORA_KERNEL_SOURCES _rora_kernel_count)
  message(STATUS "CUDA: on, toolkit ${CUDAToolkit_VERSION}, kernel sources: ${_rora_kernel_count}")
else()
  message(STATUS "CUDA: off, by RORA_CUDA")
endif()
