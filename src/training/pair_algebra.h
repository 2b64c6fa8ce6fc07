#pragma once

#include <rora/training/parameter_table.h>

#include <ATen/core/Tensor.h>

#include <functional>

namespace rora::detail {

/// Throws `c10::ValueError`, which names the optimiser, for a table without a pair whose factors are both trained, and
/// for one that is neither in fp32 nor in fp64.
void require_pairs(const ParameterTable& parameters, const char* optimizer);

/// Throws as `require_pairs` does of the dtype.
void require_wide(const ParameterTable& parameters, const char* optimizer);

/// The eigenvalues of a symmetric positive semi-definite matrix, ascending, rounding's negative ones as 0; and its
/// eigenvectors, in columns.
struct Spectrum {
  at::Tensor values;
  at::Tensor vectors;

  /// The matrix of these eigenvectors with other eigenvalues.
  at::Tensor with(const at::Tensor& values) const;
};
Spectrum spectrum(const at::Tensor& symmetric);

/// 1/x, and 0 where x is within rounding of 0 beside the largest: as a pseudo-inverse has it.
at::Tensor pseudo_reciprocal(const at::Tensor& x);

/// (M + damping·I)⁺ of a symmetric positive semi-definite M.
at::Tensor damped_inverse(const at::Tensor& symmetric, double damping);

/// A pair's factors with their gradients, which may be written to.
struct PairGradients {
  at::Tensor a;
  at::Tensor b;
  at::Tensor of_a;
  at::Tensor of_b;
  double scale;
};

/// A copy of the table's gradients in which `change` has written to those of each pair.
at::Tensor changed_gradients(ParameterTable& parameters, const std::function<void(const PairGradients&)>& change);

/// Whether an update is to be left out (`Optimizer::step`). Waits for a GPU.
bool is_set(const at::Tensor& left_out);

} // namespace rora::detail
