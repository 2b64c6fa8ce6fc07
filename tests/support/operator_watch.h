#pragma once

#include <ATen/record_function.h>

#include <functional>
#include <memory>

namespace rora::testing {

/// While it lives, `seen` is told of each operator that this thread calls, also of those that operators call. One at a
/// time.
class OperatorWatch {
 public:
  using Seen = std::function<void(const at::RecordFunction&)>;

  explicit OperatorWatch(Seen seen) {
    seen_ = std::move(seen);
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(tell).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  ~OperatorWatch() {
    at::removeCallback(handle_);
    seen_ = nullptr;
  }
  OperatorWatch(const OperatorWatch&) = delete;
  OperatorWatch& operator=(const OperatorWatch&) = delete;

 private:
  static std::unique_ptr<at::ObserverContext> tell(const at::RecordFunction& call) {
    seen_(call);
    return nullptr;
  }

  static inline thread_local Seen seen_;
  at::CallbackHandle handle_;
};

} // namespace rora::testing
