#include "fuzz_case.h"

#include <rora/data/dataset.h>

using namespace rora;

namespace {

/// A token a byte.
class ByteTokenizer : public Tokenizer {
 public:
  ByteTokenizer() {
    bos_id = 256;
    eos_id = 257;
  }
  std::vector<int64_t> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int64_t> ids;
    if (add_special_tokens) {
      ids.push_back(256);
    }
    for (const char byte : text) {
      ids.push_back(static_cast<unsigned char>(byte));
    }
    return ids;
  }
  std::string decode(c10::ArrayRef<int64_t>, bool) const override {
    return {};
  }
  int64_t vocab_size() const override {
    return 258;
  }
  std::optional<int64_t> token_id(std::string_view) const override {
    return std::nullopt;
  }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  static const ByteTokenizer tokenizer;
  const auto path = folder.write("x.jsonl", fuzz::as_text(data, size));
  fuzz::read_or_refuse("x.jsonl", [&] {
    const Dataset dataset = load_dataset({path}, &tokenizer, DatasetOptions().max_length(64));
    for (const Example& example : dataset.examples) {
      if (example.input_ids.size() != example.labels.size() || example.input_ids.size() > 64) {
        fuzz::fail("an example of unequal or too many ids and labels");
      }
    }
  });
  return 0;
}
