#pragma once

namespace rora::detail {

inline constexpr char kModelFile[] = "model.safetensors";
inline constexpr char kModelIndex[] = "model.safetensors.index.json";

} // namespace rora::detail
