#include "recomputation.h"

#include <rora/core/dropout.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace rora::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Run = std::function<at::Tensor(const at::Tensor&)>;

struct RunHolder : torch::CustomClassHolder {
  explicit RunHolder(Run run) : run(std::move(run)) {}
  Run run;
};

at::Tensor random_state(at::Generator generator) {
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(at::Generator generator, const at::Tensor& state) {
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

/// Backward may run on another thread than forward, which drew from its own generator: a copy of that in the state it
/// had.
at::Generator generator_in(const at::Tensor& state) {
  at::Generator generator = at::detail::createCPUGenerator();
  set_random_state(generator, state);
  return generator;
}

struct RecomputedFunction : torch::autograd::Function<RecomputedFunction> {
  // `anchor` requires a gradient, so that the node is recorded even where x comes straight from a frozen embedding.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& anchor, const Run& run) {
    ctx->save_for_backward({x});
    ctx->saved_data["random_state"] = random_state(at::detail::getDefaultCPUGenerator());
    if (ops::thread_generator().defined()) {
      ctx->saved_data["thread_state"] = random_state(ops::thread_generator());
    }
    ctx->saved_data["run"] = c10::IValue::make_capsule(c10::make_intrusive<RunHolder>(run));
    return run(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const at::Tensor x = ctx->get_saved_variables()[0].detach().set_requires_grad(ctx->needs_input_grad(0));
    const auto holder = c10::static_intrusive_pointer_cast<RunHolder>(ctx->saved_data["run"].toCapsule());
    const at::Generator shared = at::detail::getDefaultCPUGenerator();
    const at::Tensor state_now = random_state(shared);
    set_random_state(shared, ctx->saved_data["random_state"].toTensor());
    at::Tensor y;
    {
      std::optional<ops::ThreadGenerator> own;
      if (const auto found = ctx->saved_data.find("thread_state"); found != ctx->saved_data.end()) {
        own.emplace(generator_in(found->second.toTensor()));
      }
      at::AutoGradMode recording(true);
      y = holder->run(x);
    }
    set_random_state(shared, state_now);
    if (y.requires_grad()) {
      torch::autograd::backward({y}, {gradients[0]});
    }
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

/// A tensor without memory, and how it gets its values.
class Emptied {
 public:
  Emptied(at::Tensor tensor, std::function<at::Tensor()> form) : tensor_(std::move(tensor)), form_(std::move(form)) {}

  /// The first time; then nothing. Where forming throws, the next call tries again.
  void fill() {
    const std::lock_guard<std::mutex> lock(mutex_); // a graph that is kept may go backward on several threads
    if (!form_) {
      return;
    }
    at::NoGradGuard no_grad;
    at::Tensor fresh = form_();
    if (!lies_alike(fresh)) { // another kernel was chosen, by how its input lies in memory
      fresh = fresh.clone(at::MemoryFormat::Contiguous);
    }
    TORCH_INTERNAL_ASSERT(lies_alike(fresh));
    at::DataPtr values = fresh.storage().set_data_ptr(at::DataPtr(nullptr, fresh.device()));
    tensor_.storage().set_data_ptr_noswap(std::move(values));
    form_ = nullptr;
    tensor_.reset(); // the nodes let go of theirs in their backward
  }

 private:
  bool lies_alike(const at::Tensor& fresh) const {
    return fresh.sizes() == tensor_.sizes() && fresh.strides() == tensor_.strides() &&
        fresh.storage_offset() == tensor_.storage_offset() && fresh.storage().nbytes() == tensor_.storage().nbytes();
  }

  std::mutex mutex_;
  at::Tensor tensor_;
  std::function<at::Tensor()> form_;
};

} // namespace

at::Tensor recomputed(const Run& run, const at::Tensor& x) {
  if (!at::GradMode::is_enabled()) {
    return run(x);
  }
  return RecomputedFunction::apply(x, at::zeros({}).set_requires_grad(true), run);
}

void form_again(at::Tensor y, std::function<at::Tensor()> form, const std::vector<at::Tensor>& outputs) {
  const bool kept = y.use_count() > 1 || y.storage().use_count() > 1;
  const bool has_backward =
      std::any_of(outputs.begin(), outputs.end(), [](const at::Tensor& each) { return each.requires_grad(); });
  if (!kept || !has_backward) {
    return;
  }
  y.storage().set_data_ptr_noswap(at::DataPtr(nullptr, y.device()));
  const auto emptied = std::make_shared<Emptied>(y.detach(), std::move(form));
  for (const at::Tensor& each : outputs) {
    if (each.requires_grad()) {
      each.register_hook([emptied](const at::TensorBase&) { emptied->fill(); });
    }
  }
}

} // namespace rora::detail
