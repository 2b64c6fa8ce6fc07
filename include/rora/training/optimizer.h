#pragma once

#include <rora/training/parameter_table.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

/// What makes updates of parameters from their gradients. `Trainer` saves its state and checks its fingerprint, so that
/// a run can be gone on from, bit for bit.
class Optimizer {
 public:
  /// `parameters` must outlive it.
  explicit Optimizer(ParameterTable& parameters) : parameters_(parameters) {}
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// "AdamW": what a checkpoint's run is told by.
  virtual std::string name() const = 0;

  /// One update from the gradients in the table, each group's by its factor of `learning_rate` and its decay. Where
  /// `left_out`, an fp32 scalar on the parameters' device, is 1, neither parameters nor state change.
  void step(double learning_rate, const at::Tensor& left_out = {}) {
    ++steps; // also of one that is left out: only the device knows, and whoever reads it there takes it back
    update(learning_rate, left_out);
    parameters_.mark_changed();
  }

  /// All tensors that the next update depends on besides parameters and gradients, by name. A resumed run writes into
  /// them, so they are there, in their sizes, from the beginning.
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const = 0;

  /// Every number that shapes the updates, by its option's name: a checkpoint of a run with others is refused.
  virtual std::map<std::string, double> fingerprint() const = 0;

  /// What the state takes.
  int64_t state_bytes() const {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : state()) {
      bytes += static_cast<int64_t>(tensor.nbytes());
    }
    return bytes;
  }

  /// Updates so far, this one counted within `update`.
  int64_t steps = 0;

 protected:
  virtual void update(double learning_rate, const at::Tensor& left_out) = 0;

  ParameterTable& parameters() const {
    return parameters_;
  }

 private:
  ParameterTable& parameters_;
};

/// Makes the optimiser of a run.
using OptimizerFactory = std::function<std::unique_ptr<Optimizer>(ParameterTable&)>;

} // namespace rora
