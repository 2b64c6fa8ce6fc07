# Decides RORA_HAS_CUTLASS: whether to build the kernel that is written on CUTLASS's headers, for Hopper. Without it,
# the library does the same by cuBLASLt. The headers are those of a CUTLASS 4 that CUTLASS_INCLUDE_DIR, a variable of
# CMake or of the environment, names, or those of the Python wheel nvidia-cutlass beside LibTorch's.
set(RORA_HAS_CUTLASS FALSE)
if(NOT RORA_KERNEL_SOURCES)
  return()
endif()

find_path(CUTLASS_INCLUDE_DIR cutlass/cutlass.h
  HINTS ENV CUTLASS_INCLUDE_DIR "${_rora_torch_prefix}/../cutlass_library/source/include"
  DOC "The folder of cutlass/cutlass.h")
mark_as_advanced(CUTLASS_INCLUDE_DIR)

if(NOT CUTLASS_INCLUDE_DIR)
  message(STATUS "CUTLASS: off, as its headers were not found. With the Python that has torch: "
    "python -m pip install --no-deps nvidia-cutlass==4.2.0.0")
  return()
endif()
set(_rora_found_cutlass "unknown")
if(EXISTS "${CUTLASS_INCLUDE_DIR}/cutlass/version.h")
  file(STRINGS "${CUTLASS_INCLUDE_DIR}/cutlass/version.h" _rora_lines REGEX "define CUTLASS_(MAJOR|MINOR|PATCH) ")
  string(REGEX MATCHALL "[0-9]+" _rora_found_cutlass "${_rora_lines}")
  list(JOIN _rora_found_cutlass "." _rora_found_cutlass)
endif()
if(NOT _rora_found_cutlass MATCHES "^4\\.")
  message(STATUS "CUTLASS: off, as that in ${CUTLASS_INCLUDE_DIR} is version ${_rora_found_cutlass}, not 4")
elseif(NOT "90a" IN_LIST CMAKE_CUDA_ARCHITECTURES AND NOT "90a-real" IN_LIST CMAKE_CUDA_ARCHITECTURES)
  message(STATUS "CUTLASS: off, as 90a is none of the architectures to build for: ${CMAKE_CUDA_ARCHITECTURES}")
else()
  set(RORA_HAS_CUTLASS TRUE)
  message(STATUS "CUTLASS: on, ${_rora_found_cutlass} in ${CUTLASS_INCLUDE_DIR}")
endif()
