#pragma once

#include <rora/data/dataset.h>
#include <rora/model/decoder_options.h>

#include <cstdint>
#include <iosfwd>
#include <vector>

namespace rora::cli {

/// The positions that a model was made for: `max_position_embeddings`, times the factor of a rotary embedding whose
/// scaling that does not count in (linear, dynamic).
int64_t max_positions(const DecoderOptions& options);

/// The tokens of the longest example.
int64_t longest(const std::vector<Example>& examples);

/// Says that `tokens` are more than the model was made for, where they are.
void warn_beyond_positions(int64_t tokens, const DecoderOptions& options, std::ostream& out);

} // namespace rora::cli
