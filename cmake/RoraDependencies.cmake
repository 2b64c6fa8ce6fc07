# rora_find_package(NAME DEBIAN PACKAGE [TARGET TARGET] [ARGS ARG...]): find_package, where a missing package is an
# error that says how to install it. A macro, as find_package sets variables for its caller.
macro(rora_find_package name)
  cmake_parse_arguments(_rora "" "DEBIAN;TARGET" "ARGS" ${ARGN})
  if(NOT (_rora_TARGET AND TARGET "${_rora_TARGET}"))
    set(_rora_targets_global "${CMAKE_FIND_PACKAGE_TARGETS_GLOBAL}")
    set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL TRUE)
    find_package(${name} ${_rora_ARGS} QUIET)
    set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL "${_rora_targets_global}")
    if(NOT ${name}_FOUND)
      message(FATAL_ERROR
        "rora needs ${name}, which was not found.\n"
        "On Debian: sudo apt-get install ${_rora_DEBIAN}\n"
        "Elsewhere: install it and name its prefix in CMAKE_PREFIX_PATH.\n"
        "The presets do this by themselves: cmake --workflow --preset test")
    endif()
  endif()
endmacro()

include(RoraTorch)
if(NOT Torch_FOUND)
  message(FATAL_ERROR
    "rora needs LibTorch 2.11 or newer, which was not found.\n"
    "By pip: python3 -m venv torch-venv && torch-venv/bin/python -m pip install torch==2.11.0, then configure with "
    "-DCMAKE_PREFIX_PATH=$(torch-venv/bin/python -c 'import torch; print(torch.utils.cmake_prefix_path)')\n"
    "From the LibTorch zip: configure with -DCMAKE_PREFIX_PATH=<the unpacked libtorch folder>\n"
    "The presets do this by themselves: cmake --workflow --preset test")
endif()
get_filename_component(_rora_torch_prefix "${Torch_DIR}/../../.." ABSOLUTE)
message(STATUS "LibTorch: ${Torch_VERSION} in ${_rora_torch_prefix}")

rora_find_package(OpenMP DEBIAN libgomp1 ARGS COMPONENTS CXX)
if(NOT RORA_LIBTORCH_ONLY)
  rora_find_package(nlohmann_json DEBIAN nlohmann-json3-dev TARGET nlohmann_json::nlohmann_json ARGS 3.11)
  rora_find_package(SentencePiece DEBIAN libsentencepiece-dev TARGET SentencePiece::sentencepiece)
  rora_find_package(Pcre2 DEBIAN libpcre2-dev TARGET Pcre2::pcre2_8)
endif()
if(RORA_BUILD_EXAMPLES)
  rora_find_package(CLI11 DEBIAN libcli11-dev TARGET CLI11::CLI11)
endif()
if(BUILD_TESTING AND PROJECT_IS_TOP_LEVEL AND NOT RORA_LIBTORCH_ONLY)
  rora_find_package(GTest DEBIAN "libgtest-dev libgmock-dev" TARGET GTest::gmock)
endif()
if(RORA_BUILD_BENCH)
  rora_find_package(benchmark DEBIAN libbenchmark-dev TARGET benchmark::benchmark)
endif()
