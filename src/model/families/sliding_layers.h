#pragma once

#include <rora/model/families/family.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace rora::detail {

/// `sliding_window`, the tokens that a token sees; 0: null, which is none. `absent` where the field is not there.
int64_t read_sliding_window(const JsonObject& config, int64_t absent);

/// Gives the options the windows of `use_sliding_window`, `sliding_window` and `layer_types`, by which families of
/// sliding and full layers say them. Where `layer_types` is absent and a window is in use, those layers slide of which
/// `slides` says so. Throws `FormatError` where layers slide without a window.
void read_sliding_layers(
    const JsonObject& config, DecoderOptions& options, int64_t absent_window,
    const std::function<bool(int64_t layer)>& slides);

/// Those fields. `layer_types` names every layer where one of them slides.
void write_sliding_layers(JsonFields& fields, const DecoderOptions& options);

} // namespace rora::detail
