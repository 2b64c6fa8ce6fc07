#pragma once

#include <rora/ops/dropout.h>
#include <rora/ops/operation.h>

#include <ATen/ATen.h>

#include <array>
#include <tuple>

namespace rora::ops {

/// The products of a low-rank change, in ATen's operations: what any device runs, and what the headers use alone.
namespace reference {

inline at::Tensor dropout(const at::Tensor& x, double p, int64_t seed) {
  return Dropout{p, static_cast<uint64_t>(seed)}.apply(x);
}

inline at::Tensor low_rank_shrink(const at::Tensor& x, const at::Tensor& a, double scale) {
  at::Tensor shrunk = at::empty({x.size(0), a.size(0)}, x.options());
  return at::addmm_out(shrunk, shrunk, x, a.to(x.scalar_type()).t(), /*beta=*/0, /*alpha=*/scale);
}

inline at::Tensor& low_rank_expand_(at::Tensor& y, const at::Tensor& shrunk, const at::Tensor& b) {
  return y.addmm_(shrunk, b.to(y.scalar_type()).t());
}

inline std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask) {
  at::Tensor dshrunk, db;
  if (mask[0]) {
    dshrunk = at::empty({dy.size(0), b.size(1)}, dy.options());
    at::addmm_out(dshrunk, dshrunk, dy, b.to(dy.scalar_type()), /*beta=*/0, /*alpha=*/scale);
  }
  if (mask[1]) {
    db = dy.t().mm(shrunk);
  }
  return {dshrunk, db};
}

inline at::Tensor low_rank_gradient_a(const at::Tensor& dshrunk, const at::Tensor& x) {
  return dshrunk.t().mm(x);
}

inline at::Tensor& low_rank_gradient_x_(
    at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, double p, int64_t seed) {
  const at::Tensor own = a.to(dx.scalar_type());
  return p > 0.0 ? dx.add_(dropout(dshrunk.mm(own), p, seed)) : dx.addmm_(dshrunk, own);
}

inline at::Tensor magnitude_gradient(const at::Tensor& dy, const at::Tensor& z) {
  return (dy * z).sum(0, /*keepdim=*/false, dy.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

} // namespace reference

/// x with each element dropped or divided by 1 − p, as `Dropout` says; x itself where p is 0.
inline at::Tensor dropout(const at::Tensor& x, const Dropout& dropout) {
  return dropout.active() ? detail::call_operation<reference::dropout>(
                                "rora::dropout", x, dropout.p, static_cast<int64_t>(dropout.seed))
                          : x;
}

/// Ŝ = s·x·Aᵀ `[tokens, rank]`: with s folded in once, y = W·x + B·Ŝ and dB = dyᵀ·Ŝ.
inline at::Tensor low_rank_shrink(const at::Tensor& x, const at::Tensor& a, double scale) {
  return detail::call_operation<reference::low_rank_shrink>("rora::low_rank_shrink", x, a, scale);
}

/// y + Ŝ·Bᵀ, in y `[tokens, out]`.
inline void low_rank_expand_(at::Tensor& y, const at::Tensor& shrunk, const at::Tensor& b) {
  detail::call_operation<reference::low_rank_expand_>("rora::low_rank_expand_", y, shrunk, b);
}

/// (s·dy·B `[tokens, rank]`, dyᵀ·Ŝ `[out, rank]`), each where `mask` asks for it.
inline std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask) {
  return detail::call_operation<reference::low_rank_gradient_b>("rora::low_rank_gradient_b", dy, shrunk, b, scale, mask);
}

/// dSᵀ·x `[rank, in]`.
inline at::Tensor low_rank_gradient_a(const at::Tensor& dshrunk, const at::Tensor& x) {
  return detail::call_operation<reference::low_rank_gradient_a>("rora::low_rank_gradient_a", dshrunk, x);
}

/// dx + drop(dS·A), in dx `[tokens, in]`.
inline void low_rank_gradient_x_(at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, const Dropout& dropout) {
  detail::call_operation<reference::low_rank_gradient_x_>(
      "rora::low_rank_gradient_x_", dx, dshrunk, a, dropout.p, static_cast<int64_t>(dropout.seed));
}

/// colsum(dy⊙z) `[out]` in fp32 (fp64 for fp64).
inline at::Tensor magnitude_gradient(const at::Tensor& dy, const at::Tensor& z) {
  return detail::call_operation<reference::magnitude_gradient>("rora::magnitude_gradient", dy, z);
}

} // namespace rora::ops
