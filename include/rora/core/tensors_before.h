#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <vector>

namespace rora::detail {

/// A module's parameters and buffers as they are, to be put back where reading others fails half-way.
class TensorsBefore {
 public:
  explicit TensorsBefore(const torch::nn::Module& module) {
    for (const std::vector<at::Tensor>& tensors : {module.parameters(), module.buffers()}) {
      for (const at::Tensor& each : tensors) {
        all_.push_back({each, each.variable_data()});
      }
    }
  }

  /// Throws where a tensor has got other sizes.
  void check_sizes() const {
    for (const Kept& each : all_) {
      TORCH_CHECK_VALUE(
          each.tensor.sizes() == each.values.sizes(), "the archive is of another module: it has ", each.tensor.sizes(),
          " where ", each.values.sizes(), " is");
    }
  }

  void put_back() const {
    for (const Kept& each : all_) {
      each.tensor.set_data(each.values);
    }
  }

 private:
  struct Kept {
    at::Tensor tensor, values;
  };
  std::vector<Kept> all_;
};

} // namespace rora::detail
