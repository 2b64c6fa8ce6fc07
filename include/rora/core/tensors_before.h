#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <string>
#include <vector>

namespace rora::detail {

/// A module's parameters and buffers as they are, to be put back where reading others fails half-way.
class TensorsBefore {
 public:
  explicit TensorsBefore(const torch::nn::Module& module) {
    for (const auto& tensors : {module.named_parameters(), module.named_buffers()}) {
      for (const auto& each : tensors) {
        all_.push_back({each.key(), each.value(), each.value().variable_data()});
      }
    }
  }

  /// Throws where a tensor has got other sizes.
  void check_sizes() const {
    for (const Kept& each : all_) {
      TORCH_CHECK_VALUE(
          each.tensor.sizes() == each.values.sizes(), "the archive is of another module: its ", each.name, " is ",
          each.tensor.sizes(), ", not ", each.values.sizes());
    }
  }

  void put_back() const {
    for (const Kept& each : all_) {
      each.tensor.set_data(each.values);
    }
  }

 private:
  struct Kept {
    std::string name;
    at::Tensor tensor, values;
  };
  std::vector<Kept> all_;
};

} // namespace rora::detail
