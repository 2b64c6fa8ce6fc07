#pragma once

#include <rora/data/batch.h>
#include <rora/model/causal_lm.h>
#include <rora/training/parameter_table.h>

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

namespace rora {

/// Records work on a device, to have it done again without the host's part in it.
class GraphRunner {
 public:
  virtual ~GraphRunner() = default;

  /// What does the work again, with the values that the tensors it reads then have. `work` runs once, on the host
  /// alone: the device does nothing yet.
  virtual std::function<void()> capture(const std::function<void()>& work) = 0;
};

/// CUDA graphs on a stream of the runner's own: the thread's current one, for all that is computed, while the runner
/// lives. It must end on the thread that made it. Throws `c10::ValueError` where rora was built without CUDA.
std::unique_ptr<GraphRunner> cuda_graph_runner(at::Device device);

/// Why a training step of the model cannot be captured in a CUDA graph; nothing where it can. Dropout draws its seeds
/// on the host, and so does what recomputes activations; a model on a CPU has no graphs.
std::optional<std::string> why_not_captured(const CausalLM& model);

/// The gradients of batches, by one graph a batch where shapes repeat: a step's host then launches no kernel of forward
/// and backward by itself.
///
/// So that shapes do repeat, rows are padded to whole multiples of 64 tokens, and labelled tokens and the boundaries of
/// sequences to a few counts. What is padded has neither a loss nor a gradient; sums are formed in another order only.
/// The first batches of a shape are computed kernel by kernel, on the stream and from the tensors that the graph then
/// reads; capturing waits for the device. Graphs share their memory, and the one used longest ago makes way for a new
/// one. That memory, the most that one of them needs, is for graphs alone: what is computed without one, a shape's
/// first batches and validation, has its own beside it, so that activations may take twice what they take without
/// graphs. DoRA's norms are formed in each graph: once a batch, not once a step.
///
/// While it lives, the model's tensors must stay where they are, and its frozen ones as they are; no graph of autograd
/// that reads the parameters may be left from before.
class StepGraphs {
 public:
  static constexpr int kWarmUps = 2; ///< batches of a shape before its graph
  static constexpr size_t kMostShapes = 16;

  /// `parameters` are those of the model that are trained; they must outlive it.
  StepGraphs(CausalLM model, ParameterTable& parameters, std::unique_ptr<GraphRunner> runner);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  /// Adds the gradient of (the batch's sum of losses)/`labelled_tokens` to the parameters'. Returns the sum, an fp64
  /// scalar on the model's device. The batch lies on the CPU; nothing waits for the device but a capture, and the end
  /// of a graph that makes way.
  at::Tensor add_gradient(const Batch& batch, int64_t labelled_tokens);

  /// How many graphs were captured so far.
  int64_t captures() const {
    return captures_;
  }
  /// Shapes that are kept at present.
  size_t shapes() const;

 private:
  struct Shape;

  Shape& shape_of(const PreparedLoss& prepared);
  void capture(Shape& shape);

  CausalLM model_;
  ParameterTable& parameters_;
  std::unique_ptr<GraphRunner> runner_; // ends after the graphs
  std::list<Shape> shapes_; // the one used last stands first
  int64_t captures_ = 0;
};

} // namespace rora
