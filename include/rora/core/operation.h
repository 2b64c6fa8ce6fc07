#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <utility>

namespace rora::ops::detail {

/// For a node's backward: throws where a graph of it is asked for (`create_graph`), as it would lack the node's own
/// part.
inline void refuse_second_derivative(const char* name) {
  TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), name, " has no second derivative");
}

/// Calls the dispatcher's operator of `name` where the compiled library has declared it, and `reference` where the
/// headers are used alone. Only a find is remembered: the library may be loaded later.
template <auto reference, class... Arguments>
decltype(auto) call_operation(const char* name, Arguments&&... arguments) {
  using Signature = std::remove_pointer_t<decltype(reference)>;
  using Handle = c10::TypedOperatorHandle<Signature>;
  static std::atomic<const Handle*> found = nullptr;
  const Handle* handle = found.load(std::memory_order_acquire);
  if (handle == nullptr) {
    if (const auto schema = c10::Dispatcher::singleton().findSchema({name, ""})) {
      static const Handle kept = schema->typed<Signature>();
      handle = &kept;
      found.store(handle, std::memory_order_release);
    }
  }
  return handle != nullptr ? handle->call(std::forward<Arguments>(arguments)...)
                           : reference(std::forward<Arguments>(arguments)...);
}

} // namespace rora::ops::detail
