#pragma once

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

class JsonField;

/// Turns the spellings of tokens into parts of the text.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual std::vector<std::string> decode(std::vector<std::string> tokens) const = 0;
};

/// The field `decoder`; nullptr where it is null. Throws `FormatError` for what is not supported.
std::unique_ptr<Decoder> decoder_from_json(const JsonField& field);

} // namespace rora::detail
