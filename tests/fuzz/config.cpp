#include "fuzz_case.h"

#include <rora/model/decoder_options.h>

using namespace rora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  folder.write("config.json", fuzz::as_text(data, size));
  fuzz::read_or_refuse("config.json", [&] {
    const DecoderOptions options = read_model_config(folder.path());
    const std::string written = model_config_json(options, "float32");
    folder.write("config.json", written);
    if (model_config_json(read_model_config(folder.path()), "float32") != written) {
      fuzz::fail("a config that is read otherwise once it is written");
    }
  });
  return 0;
}
