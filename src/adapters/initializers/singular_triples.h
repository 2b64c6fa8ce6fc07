#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace rora::detail {

/// Singular values with their vectors: matrix ≈ u·diag(s)·v, in fp32 (fp64 for fp64). Of each row of v the largest
/// entry is positive, so that a decomposition has one result.
struct SingularTriples {
  at::Tensor u; ///< `[rows, k]`
  at::Tensor s; ///< `[k]`, from the largest on
  at::Tensor v; ///< `[k, columns]`
};

/// +1 or -1 for each row `[rows, 1]`: what makes its largest entry positive. Singular vectors and eigenvectors are told
/// up to their sign.
at::Tensor signs_of_rows(const at::Tensor& rows);

/// Of a gradient's randomised decomposition, as LoRA-GA's and LoRA-One's authors have it.
inline constexpr int64_t kGradientIterations = 4;

/// The first `k`. With `iterations` of 0 from an exact decomposition, else from that many power iterations of a
/// randomised one (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4) of 10 more columns, whose random matrix
/// is the same at every call.
SingularTriples first_singular_triples(const at::Tensor& matrix, int64_t k, int64_t iterations = 0);

/// The last `k` of min(rows, columns).
SingularTriples last_singular_triples(const at::Tensor& matrix, int64_t k);

/// Throws `c10::ValueError` where `count` singular values, which `what` takes, are more than a matrix of those sizes
/// has.
void check_singular_values(int64_t count, at::IntArrayRef sizes, const std::string& what);

} // namespace rora::detail
