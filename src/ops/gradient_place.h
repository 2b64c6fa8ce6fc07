#pragma once

#include <rora/core/gradient_rows.h>

#include <torch/csrc/autograd/custom_function.h>

namespace rora::ops::detail {

/// For a node's forward: keeps where its backward is to write the gradient.
inline void keep_place(torch::autograd::AutogradContext* ctx, const GradientPlace& place) {
  if (place.rows != nullptr) {
    ctx->saved_data["gradient_rows"] = c10::IValue::make_capsule(place.rows);
    ctx->saved_data["gradient_number"] = static_cast<int64_t>(place.number);
  }
}

/// For the backward: what the forward has kept.
inline GradientPlace kept_place(torch::autograd::AutogradContext* ctx) {
  const auto found = ctx->saved_data.find("gradient_rows");
  if (found == ctx->saved_data.end()) {
    return {};
  }
  return {
      c10::static_intrusive_pointer_cast<GradientRows>(found->second.toCapsule()),
      static_cast<size_t>(ctx->saved_data["gradient_number"].toInt())};
}

} // namespace rora::ops::detail
