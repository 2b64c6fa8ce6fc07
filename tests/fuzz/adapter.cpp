#include "fuzz_case.h"

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/model/pretrained.h>

using namespace rora;

/// An adapter folder in one input: adapter_config.json, a zero byte, adapter_model.safetensors.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  static CausalLM model = load_model(RORA_FUZZ_MODEL);
  const std::string_view content = fuzz::as_text(data, size);
  const size_t zero = content.find('\0');
  folder.write("adapter_config.json", content.substr(0, zero));
  folder.write("adapter_model.safetensors", zero == std::string_view::npos ? "" : content.substr(zero + 1));
  fuzz::read_or_refuse("adapter_", [&] {
    load_adapter(*model, folder.path());
    detach_adapters(*model);
  });
  return 0;
}
