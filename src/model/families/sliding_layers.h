#pragma once

#include <rora/model/families/family.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace rora::detail {

/// `sliding_window`, the tokens that a token sees; 0: null, which is none. `absent` where the field is not there.
int64_t read_sliding_window(const JsonObject& config, int64_t absent);

/// Gives the options a window of that many tokens in the layers that `layer_types` names or, where it is absent, in
/// those of which `slides` says so. Throws `FormatError`, saying what is `missing`, where layers would slide and
/// `window` is 0.
void read_sliding_layers(
    const JsonObject& config, DecoderOptions& options, int64_t window, const std::string& missing,
    const std::function<bool(int64_t layer)>& slides);

/// Gives the options the windows of `use_sliding_window`, `sliding_window` and `layer_types`, by which families of
/// sliding and full layers say them. Without `layer_types` no layer slides where no window is in use.
void read_sliding_layers(
    const JsonObject& config, DecoderOptions& options, int64_t absent_window,
    const std::function<bool(int64_t layer)>& slides);

/// `layer_types`.
std::vector<std::string> layer_type_names(const DecoderOptions& options);

/// Those fields. `layer_types` names every layer where one of them slides.
void write_sliding_layers(JsonFields& fields, const DecoderOptions& options);

} // namespace rora::detail
