#include "tokenizer_texts.h"

using namespace rora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  folder.write("tokenizer.json", fuzz::as_text(data, size));
  fuzz::read_or_refuse("tokenizer.json", [&] { fuzz::run_tokenizer(folder.path()); });
  return 0;
}
