#include <rora/model/rms_norm.h>
#include <rora/ops/rms_norm.h>

#include <ATen/ATen.h>

#include <utility>

namespace rora {

RMSNormImpl::RMSNormImpl(int64_t size, double eps)
    : weight(register_parameter("weight", at::ones({size}), /*requires_grad=*/false)), eps(eps) {}

at::Tensor RMSNormImpl::forward(const at::Tensor& x) {
  return ops::rms_norm(x, weight, eps);
}

at::Tensor RMSNormImpl::forward(ResidualStream& stream) {
  auto [sum, y] = ops::add_rms_norm(stream.states, stream.change, weight, eps);
  stream = {std::move(sum)};
  return y;
}

} // namespace rora
