#include "positions.h"

#include <algorithm>
#include <ostream>

namespace rora::cli {

int64_t max_positions(const DecoderOptions& options) {
  const RopeOptions& rope = options.rope();
  const bool counts_in = rope.scaling() != RopeScaling::kLinear && rope.scaling() != RopeScaling::kDynamic;
  const double factor = counts_in ? 1.0 : std::max(rope.factor(), 1.0);
  return static_cast<int64_t>(static_cast<double>(options.max_position_embeddings()) * factor);
}

int64_t longest(const std::vector<Example>& examples) {
  int64_t tokens = 0;
  for (const Example& example : examples) {
    tokens = std::max(tokens, static_cast<int64_t>(example.input_ids.size()));
  }
  return tokens;
}

void warn_beyond_positions(int64_t tokens, const DecoderOptions& options, std::ostream& out) {
  if (const int64_t limit = max_positions(options); tokens > limit) {
    out << "up to " << tokens << " tokens in a row, and the model was made for " << limit
        << " positions (max_position_embeddings): what it makes of those behind is not what it was taught" << std::endl;
  }
}

} // namespace rora::cli
