#pragma once

#include <ATen/ATen.h>

#include <sstream>
#include <string>

namespace rora::detail {

/// "[2, 3]".
inline std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

} // namespace rora::detail
