#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace rora::ops::detail {

/// What the sums over elements of this dtype are formed in.
inline at::ScalarType wide_type(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

/// The dispatcher's `rora::name`, which library.cpp declares.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

} // namespace rora::ops::detail
