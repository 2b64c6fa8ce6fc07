#include <rora/model/rms_norm.h>
#include <rora/ops/rms_norm.h>

#include <ATen/ATen.h>

#include <utility>

namespace rora {

RMSNormImpl::RMSNormImpl(int64_t size, double eps, bool adds_one)
    : weight(register_parameter("weight", adds_one ? at::zeros({size}) : at::ones({size}), /*requires_grad=*/false)),
      eps(eps),
      adds_one(adds_one) {}

at::Tensor RMSNormImpl::factor() const {
  return adds_one ? weight.to(at::promote_types(weight.scalar_type(), at::kFloat)) + 1.0 : weight;
}

at::Tensor RMSNormImpl::forward(const at::Tensor& x) {
  return ops::rms_norm(x, factor(), eps);
}

at::Tensor RMSNormImpl::forward(ResidualStream& stream) {
  auto [sum, y] = ops::add_rms_norm(stream.states, stream.change.values, factor(), eps, stream.change.place);
  stream = {std::move(sum)};
  return y;
}

} // namespace rora
