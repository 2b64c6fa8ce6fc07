# How the library, the tests and the examples are compiled.

if(PROJECT_IS_TOP_LEVEL)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
  endif()

  # A source that includes LibTorch takes up to 1.3 GB to compile: as many at once as processors and memory allow.
  if(NOT DEFINED CMAKE_JOB_POOL_COMPILE)
    cmake_host_system_information(RESULT _rora_jobs QUERY NUMBER_OF_LOGICAL_CORES)
    cmake_host_system_information(RESULT _rora_memory_mib QUERY TOTAL_PHYSICAL_MEMORY)
    math(EXPR _rora_jobs_by_memory "${_rora_memory_mib} / 1500")
    if(_rora_jobs_by_memory LESS _rora_jobs)
      set(_rora_jobs "${_rora_jobs_by_memory}")
    endif()
    if(_rora_jobs LESS 1)
      set(_rora_jobs 1)
    endif()
    set_property(GLOBAL APPEND PROPERTY JOB_POOLS rora_compile=${_rora_jobs})
    set(CMAKE_JOB_POOL_COMPILE rora_compile)
  endif()

  # The sloppiness lets ccache store what a precompiled header went into.
  find_program(CCACHE_PROGRAM ccache)
  foreach(language CXX CUDA)
    if(CCACHE_PROGRAM AND NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env
          CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime "${CCACHE_PROGRAM}")
    endif()
  endforeach()
endif()

# rora_set_compile_options(TARGET): warnings, and -fPIC spelled out for libraries and executables alike, so that one
# precompiled header is valid for both.
function(rora_set_compile_options target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:-fPIC;-Wall;-Wextra;-Wno-unused-parameter>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fPIC,-Wall,-Wextra>")
endfunction()

# rora_add_executable(NAME SOURCE...): an executable that links rora and uses the library's precompiled header.
function(rora_add_executable name)
  add_executable(${name} ${ARGN})
  rora_set_compile_options(${name})
  target_link_libraries(${name} PRIVATE rora::rora)
  if(NOT RORA_LIBTORCH_ONLY)
    target_link_libraries(${name} PRIVATE nlohmann_json::nlohmann_json)
  endif()
  target_precompile_headers(${name} REUSE_FROM rora)
endfunction()
