#include "pair_algebra.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <limits>
#include <tuple>

namespace rora::detail {

void require_wide(const ParameterTable& parameters, const char* optimizer) {
  const at::ScalarType dtype = parameters.values().scalar_type();
  TORCH_CHECK_VALUE(
      dtype == at::kFloat || dtype == at::kDouble, optimizer,
      " computes in float32 or float64, and what is trained is in ", dtype);
}

void require_pairs(const ParameterTable& parameters, const char* optimizer) {
  TORCH_CHECK_VALUE(
      !parameters.pairs().empty(), optimizer, " needs an adapter's A and B that are both trained, and there are none");
  require_wide(parameters, optimizer);
}

at::Tensor Spectrum::with(const at::Tensor& values) const {
  return (vectors * values).mm(vectors.t());
}

Spectrum spectrum(const at::Tensor& symmetric) {
  auto [values, vectors] = at::linalg_eigh(symmetric);
  return {values.clamp_min(0.0), vectors};
}

at::Tensor pseudo_reciprocal(const at::Tensor& x) {
  const double epsilon =
      x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  const at::Tensor bound = x.max() * (static_cast<double>(x.size(-1)) * epsilon);
  return at::where(x > bound, x.reciprocal(), 0.0);
}

at::Tensor damped_inverse(const at::Tensor& symmetric, double damping) {
  const Spectrum own = spectrum(symmetric);
  return own.with(pseudo_reciprocal(own.values + damping));
}

at::Tensor changed_gradients(ParameterTable& parameters, const std::function<void(const PairGradients&)>& change) {
  at::Tensor gradients = parameters.gradients().clone();
  for (const ParameterPair& pair : parameters.pairs()) {
    const ParameterEntry& a = parameters.entries()[pair.a];
    const ParameterEntry& b = parameters.entries()[pair.b];
    change({a.tensor, b.tensor, ParameterTable::slice(a, gradients), ParameterTable::slice(b, gradients), pair.scale});
  }
  return gradients;
}

bool is_set(const at::Tensor& left_out) {
  return left_out.defined() && left_out.item<double>() != 0.0;
}

} // namespace rora::detail
