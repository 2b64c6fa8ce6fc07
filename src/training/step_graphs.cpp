#include <rora/training/step_graphs.h>

#include "../evaluation/batch_input.h"
#include "batch_gradient.h"
#include "padded_batch.h"

#include <rora/core/projection.h>
#include <rora/model/decoder_layer.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace rora {
namespace {

using Sizes = std::vector<int64_t>;

/// Equal for what one graph can read.
Sizes sizes_of(PreparedLoss prepared) {
  Sizes sizes;
  for (const at::Tensor* each : prepared.tensors()) {
    sizes.push_back(each->defined() ? each->dim() : -1);
    if (each->defined()) {
      sizes.insert(sizes.end(), each->sizes().begin(), each->sizes().end());
    }
  }
  return sizes;
}

PreparedLoss empty_like(PreparedLoss prepared, at::Device device) {
  for (at::Tensor* each : prepared.tensors()) {
    if (each->defined()) {
      *each = at::empty(each->sizes(), each->options().device(device));
    }
  }
  return prepared;
}

/// From pinned memory to a GPU, so that nothing waits; the allocator keeps that memory until it has been read.
void copy_values(PreparedLoss from, PreparedLoss& to) {
  const auto sources = from.tensors();
  const auto targets = to.tensors();
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i]->defined()) {
      const bool to_gpu = targets[i]->is_cuda();
      targets[i]->copy_(to_gpu ? sources[i]->contiguous().pin_memory() : *sources[i], /*non_blocking=*/to_gpu);
    }
  }
}

/// Why the adapter that takes part in what `module` computes cannot be captured, if it is a `Holder` of one.
template <class Holder>
std::optional<std::string> why_adapter_differs(const torch::nn::Module& module) {
  const auto* holder = module.as<Holder>();
  const auto* adapter = holder != nullptr ? holder->active_adapter() : nullptr;
  return adapter != nullptr ? adapter->why_not_captured() : std::nullopt;
}

std::optional<std::string> why_adapters_differ(const CausalLM& model) {
  for (const auto& module : model->modules()) {
    for (auto& why :
         {why_adapter_differs<ProjectionImpl>(*module), why_adapter_differs<AttentionImpl>(*module),
          why_adapter_differs<MLPImpl>(*module)}) {
      if (why) {
        return why;
      }
    }
  }
  return std::nullopt;
}

} // namespace

std::optional<std::string> why_not_captured(const CausalLM& model) {
  if (model->checkpointing != Checkpointing::kNone) {
    return "activation checkpointing decides in backward, on the host, what to compute again";
  }
  if (auto why = why_adapters_differ(model)) {
    return why;
  }
  if (!model->device().is_cuda()) {
    return "the model is not on a GPU";
  }
#if defined(RORA_HAS_CUDA)
  return std::nullopt;
#else
  return "rora was built without CUDA";
#endif
}

/// Batches of one shape: the tensors that their graph reads and writes, in place of each batch's own.
struct StepGraphs::Shape {
  Sizes sizes;
  PreparedLoss input;
  at::Tensor factor;
  at::Tensor sum; ///< of the losses, fp64
  std::function<void()> work;
  int warm_ups = 0;
  std::function<void()> replay; ///< empty until there is a graph
};

StepGraphs::StepGraphs(CausalLM model, ParameterTable& parameters, std::unique_ptr<GraphRunner> runner)
    : model_(std::move(model)), parameters_(parameters), runner_(std::move(runner)) {}

StepGraphs::~StepGraphs() = default;

size_t StepGraphs::shapes() const {
  return shapes_.size();
}

at::Tensor StepGraphs::add_gradient(const Batch& batch, int64_t labelled_tokens) {
  const Batch rows = detail::padded_rows(batch);
  const PreparedLoss prepared = detail::padded_counts(model_->prepare_loss(detail::batch_input(rows), rows.labels));
  parameters_.gradients(); // each tensor has one, which graphs add to
  Shape& shape = shape_of(prepared);
  copy_values(prepared, shape.input);
  shape.factor.fill_(1.0 / static_cast<double>(labelled_tokens));
  if (!shape.replay && shape.warm_ups < kWarmUps) {
    ++shape.warm_ups;
    shape.work();
  } else {
    if (!shape.replay) {
      capture(shape);
    }
    shape.replay();
  }
  return shape.sum.clone();
}

StepGraphs::Shape& StepGraphs::shape_of(const PreparedLoss& prepared) {
  Sizes sizes = sizes_of(prepared);
  const auto found =
      std::find_if(shapes_.begin(), shapes_.end(), [&](const Shape& each) { return each.sizes == sizes; });
  if (found != shapes_.end()) {
    shapes_.splice(shapes_.begin(), shapes_, found);
    return shapes_.front();
  }
  if (shapes_.size() == kMostShapes) {
    shapes_.pop_back();
  }
  Shape& shape = shapes_.emplace_front();
  shape.sizes = std::move(sizes);
  shape.factor = detail::loss_factor(model_, 0.0);
  shape.input = empty_like(prepared, shape.factor.device());
  shape.sum = at::zeros({}, shape.factor.options().dtype(at::kDouble));
  shape.work = [this, &shape] { shape.sum.copy_(detail::add_gradient(model_, shape.input, shape.factor)); };
  return shape;
}

void StepGraphs::capture(Shape& shape) {
  // What is remembered of the parameters (DoRA's norms) must be formed inside the graph, each time anew. What it formed
  // while captured has no values, so that nobody else may use it, be the capture a failure.
  parameters_.mark_changed();
  try {
    shape.replay = runner_->capture(shape.work);
  } catch (...) {
    parameters_.mark_changed();
    throw;
  }
  parameters_.mark_changed();
  ++captures_;
}

} // namespace rora
