#include "fuzz_case.h"

#include <rora/checkpoint/safetensors.h>

using namespace rora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  const auto path = folder.write("x.safetensors", fuzz::as_text(data, size));
  fuzz::read_or_refuse("x.safetensors", [&] {
    const SafetensorsFile file(path);
    uint64_t sum = 0;
    for (const std::string& name : file.names()) {
      const at::Tensor tensor = file.tensor(name);
      const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
      for (size_t i = 0; i < tensor.nbytes(); ++i) {
        sum += bytes[i];
      }
    }
    if (sum > 255 * static_cast<uint64_t>(size)) {
      fuzz::fail("more bytes than the file has");
    }
  });
  return 0;
}
