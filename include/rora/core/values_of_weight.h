#pragma once

#include <rora/core/linear_weight.h>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <memory>

namespace rora::ops::detail {

/// The values of a weight as a forward pass has read them, whatever takes their place until its backward pass: a merged
/// adapter, or one that rewrites the weight.
class ValuesOfWeight {
 public:
  explicit ValuesOfWeight(const LinearWeight& weight) {
    const at::Tensor tensor = weight.tensor();
    if (tensor.defined() && !tensor.is_inference()) {
      values_ = tensor.variable_data();
      version_ = tensor._version();
    }
  }

  /// `weight`, or its former values. Throws where those were written to.
  std::shared_ptr<const LinearWeight> of_forward(const std::shared_ptr<const LinearWeight>& weight) const {
    if (!values_.defined()) {
      return weight;
    }
    const at::Tensor now = weight->tensor();
    TORCH_CHECK_VALUE(
        static_cast<int64_t>(now._version()) == version_, "a weight ", values_.sizes(),
        " that the gradient is computed with was modified by an inplace operation since the forward pass");
    const bool is_same = now.is_alias_of(values_) && now.storage_offset() == values_.storage_offset() &&
        now.strides() == values_.strides();
    return is_same ? weight : std::make_shared<DenseWeight>(values_);
  }

 private:
  at::Tensor values_; ///< undefined where W is not dense
  int64_t version_ = 0;
};

} // namespace rora::ops::detail
