#include "layer_checkpointing.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>

namespace rora::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Run = std::function<at::Tensor(const at::Tensor&)>;

struct RunHolder : torch::CustomClassHolder {
  explicit RunHolder(Run run) : run(std::move(run)) {}
  Run run;
};

at::Tensor random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(const at::Tensor& state) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  // `anchor` requires a gradient, so that the node is recorded even where x comes straight from a frozen embedding.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& anchor, const Run& run) {
    ctx->save_for_backward({x});
    ctx->saved_data["random_state"] = random_state();
    ctx->saved_data["run"] = c10::IValue::make_capsule(c10::make_intrusive<RunHolder>(run));
    return run(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const at::Tensor x = ctx->get_saved_variables()[0].detach().set_requires_grad(ctx->needs_input_grad(0));
    const auto holder = c10::static_intrusive_pointer_cast<RunHolder>(ctx->saved_data["run"].toCapsule());
    const at::Tensor state_now = random_state();
    set_random_state(ctx->saved_data["random_state"].toTensor());
    at::Tensor y;
    {
      at::AutoGradMode recording(true);
      y = holder->run(x);
    }
    set_random_state(state_now);
    if (y.requires_grad()) {
      torch::autograd::backward({y}, {gradients[0]});
    }
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor checkpoint(const Run& run, const at::Tensor& x) {
  if (!at::GradMode::is_enabled()) {
    return run(x);
  }
  return CheckpointFunction::apply(x, at::zeros({}).set_requires_grad(true), run);
}

} // namespace rora::detail
