# Headers, library, binary, and the package that find_package(rora CONFIG) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(_rora_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/rora")

set(_rora_targets rora_core rora)
if(TARGET rora_whole)
  list(APPEND _rora_targets rora_whole)
endif()
install(TARGETS ${_rora_targets} EXPORT roraTargets INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/rora" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(EXPORT roraTargets NAMESPACE rora:: DESTINATION "${_rora_package_dir}")

# The installed library and binary find LibTorch where it was linked from.
foreach(_rora_target IN ITEMS rora rora_cli)
  if(TARGET ${_rora_target})
    set_target_properties(${_rora_target} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  endif()
endforeach()
if(TARGET rora_cli)
  file(RELATIVE_PATH _rora_lib_from_bin "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
  set_target_properties(rora_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${_rora_lib_from_bin}")
  install(TARGETS rora_cli)
endif()

set(RORA_SHARED "${BUILD_SHARED_LIBS}")
set(RORA_HAS_KERNELS OFF)
if(RORA_KERNEL_SOURCES)
  set(RORA_HAS_KERNELS ON)
endif()
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/roraConfig.cmake.in" "${PROJECT_BINARY_DIR}/roraConfig.cmake"
  INSTALL_DESTINATION "${_rora_package_dir}" NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/roraConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/roraConfig.cmake" "${PROJECT_BINARY_DIR}/roraConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/RoraTorch.cmake" DESTINATION "${_rora_package_dir}")
if(NOT BUILD_SHARED_LIBS)
  install(FILES "${PROJECT_SOURCE_DIR}/cmake/FindPcre2.cmake" "${PROJECT_SOURCE_DIR}/cmake/FindSentencePiece.cmake"
    DESTINATION "${_rora_package_dir}")
endif()
