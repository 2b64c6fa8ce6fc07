#include "demo/comparison.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <numeric>

namespace rora::demo {

std::string method_name(Method method) {
  switch (method) {
    case Method::kLoRA:
      return "LoRA";
    case Method::kRoRA:
      return "RoRA";
    case Method::kDoRA:
      return "DoRA";
  }
  C10_THROW_ERROR(ValueError, "no such method");
}

double Run::final_loss() const {
  const size_t count = std::max<size_t>(losses.size() / 10, 1);
  return std::accumulate(losses.end() - static_cast<std::ptrdiff_t>(count), losses.end(), 0.0) /
      static_cast<double>(count);
}

} // namespace rora::demo
