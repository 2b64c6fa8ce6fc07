#include "checkpoint/quote.h"

namespace rora::detail {

std::string quote(std::string_view text) {
  std::string quoted(1, '\'');
  quoted += shortened(text, 160);
  quoted += '\'';
  return quoted;
}

std::string shortened(std::string_view text, size_t limit) {
  if (text.size() <= limit) {
    return std::string(text);
  }
  auto continues = [&](size_t i) { return (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80; };
  size_t cut = limit;
  while (cut > 0 && limit - cut < 3 && continues(cut)) {
    --cut;
  }
  return std::string(text.substr(0, cut)) + "...";
}

} // namespace rora::detail
