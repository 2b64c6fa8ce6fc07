#pragma once

#include <rora/adapters/low_rank_folder.h>

#include <cstdint>
#include <string>

namespace rora::detail {

/// ‖B·A‖² in Frobenius norm, by the r×r products: Σ (BᵀB)⊙(AAᵀ), in fp64.
double product_norm_squared(const at::Tensor& b, const at::Tensor& a);

/// ‖ΔW‖².
double norm_squared(const LowRankChange& change);

/// The change with rows of A and columns of B of zeros up to that rank.
LowRankChange padded(const LowRankChange& change, int64_t rank);

/// Adds up a `ChangeError` module by module.
class ErrorSum {
 public:
  void add(const std::string& module, double error_squared, double norm_squared);
  ChangeError total() const;

 private:
  ChangeError largest_;
  double error_squared_ = 0.0;
  double norm_squared_ = 0.0;
};

} // namespace rora::detail
