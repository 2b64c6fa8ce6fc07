#include <rora/core/sum_of_products.h>
#include <rora/ops/prepacked_weight.h>

#include "prepacked_matrix.h"

namespace rora::ops {
namespace {

class PrepackedWeight : public DenseWeight {
 public:
  explicit PrepackedWeight(const at::Tensor& weight)
      : DenseWeight(weight), at_(weight.const_data_ptr()), version_(weight._version()) {
    const at::Tensor matrix = weight.detach();
    if (detail::can_prepack(matrix.t())) {
      forward_ = detail::prepack_matrix(matrix.t());
    }
    if (detail::can_prepack(matrix)) {
      backward_ = detail::prepack_matrix(matrix);
    }
  }

  at::Tensor forward_matrix() const override {
    return is_current() && forward_.defined() ? forward_ : DenseWeight::forward_matrix();
  }
  at::Tensor backward_matrix() const override {
    return is_current() && backward_.defined() ? backward_ : DenseWeight::backward_matrix();
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return sum_of_products({x}, {forward_matrix()});
  }
  at::Tensor backward(const at::Tensor& dy) const override {
    return sum_of_products({dy}, {backward_matrix()});
  }
  int64_t prepacked_bytes() const override {
    int64_t bytes = 0;
    for (const at::Tensor& each : {forward_, backward_}) {
      bytes += each.defined() ? static_cast<int64_t>(detail::prepacked_matrix(each)->panels.nbytes()) : 0;
    }
    return bytes;
  }

 private:
  bool is_current() const {
    const at::Tensor weight = dense();
    return weight.const_data_ptr() == at_ && weight._version() == version_;
  }

  at::Tensor forward_, backward_;
  const void* at_;
  uint32_t version_;
};

} // namespace

bool can_prepack_weights(at::ScalarType dtype) {
  return detail::can_prepack(at::empty({2, 2}, dtype));
}

std::shared_ptr<LinearWeight> prepack_weight(const at::Tensor& weight) {
  TORCH_CHECK_VALUE(
      weight.dim() == 2 && weight.device().is_cpu() && can_prepack_weights(weight.scalar_type()), "a weight ",
      weight.sizes(), " of ", weight.scalar_type(), " on ", weight.device(), " is not packed on this processor");
  TORCH_CHECK_VALUE(!weight.requires_grad(), "a weight that is trained changes and is not packed");
  TORCH_CHECK_VALUE(!weight.is_inference(), "an inference tensor does not tell when it changes and is not packed");
  return std::make_shared<PrepackedWeight>(weight);
}

} // namespace rora::ops
