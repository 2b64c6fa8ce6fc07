# Installs BUILD_DIR into PREFIX, emptied first: a header that is no longer installed must not be found there.
file(REMOVE_RECURSE "${PREFIX}")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${PREFIX}" --config "${CONFIG}"
  COMMAND_ERROR_IS_FATAL ANY)

# The package must work wherever it is moved to, with whatever LibTorch is there.
file(GLOB_RECURSE files "${PREFIX}/*.cmake")
if(NOT files)
  message(FATAL_ERROR "no CMake package was installed in ${PREFIX}")
endif()
foreach(file IN LISTS files)
  file(STRINGS "${file}" lines REGEX "[\";=]/[A-Za-z]")
  if(lines)
    message(FATAL_ERROR "${file} holds an absolute path: ${lines}")
  endif()
endforeach()
