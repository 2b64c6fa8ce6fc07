# Debian's sentencepiece ships a .pc file and no CMake package.
find_path(SentencePiece_INCLUDE_DIR sentencepiece_processor.h)
find_library(SentencePiece_LIBRARY sentencepiece)
find_library(SentencePiece_TRAIN_LIBRARY sentencepiece_train)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(SentencePiece REQUIRED_VARS SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY SentencePiece_INCLUDE_DIR)
foreach(part "" _TRAIN)
  if(SentencePiece_FOUND AND NOT TARGET SentencePiece::sentencepiece${part})
    add_library(SentencePiece::sentencepiece${part} UNKNOWN IMPORTED)
    set_target_properties(SentencePiece::sentencepiece${part} PROPERTIES
      IMPORTED_LOCATION "${SentencePiece${part}_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${SentencePiece_INCLUDE_DIR}")
  endif()
endforeach()
