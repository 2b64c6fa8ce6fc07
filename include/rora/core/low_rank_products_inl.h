#pragma once

#include <rora/core/low_rank_products.h>
#include <rora/core/operation.h>
#include <rora/core/sum_of_products.h>

#include <ATen/ATen.h>

#include <utility>

namespace rora::ops {

namespace reference {

RORA_INLINE at::Tensor dropout(const at::Tensor& x, double p, int64_t seed) {
  return Dropout{p, static_cast<uint64_t>(seed)}.apply(x);
}

} // namespace reference

RORA_INLINE at::Tensor dropout(const at::Tensor& x, const Dropout& dropout) {
  return dropout.active()
      ? detail::call_operation<reference::dropout>("rora::dropout", x, dropout.p, static_cast<int64_t>(dropout.seed))
      : x;
}

namespace reference {

RORA_INLINE at::Tensor low_rank_shrink(const at::Tensor& x, const at::Tensor& a, double scale, double p, int64_t seed) {
  return ops::sum_of_products({ops::dropout(x, Dropout{p, static_cast<uint64_t>(seed)})}, {a.t()}, scale);
}

RORA_INLINE void write_low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask,
    at::Tensor& dshrunk, at::Tensor& db) {
  if (mask[0] && dshrunk.defined()) {
    ops::sum_of_products_(dshrunk, {dy}, {b}, scale, /*accumulate=*/false);
  } else if (mask[0]) {
    dshrunk = ops::sum_of_products({dy}, {b}, scale);
  }
  if (mask[1]) { // as its transpose, so that the thin matrix is the left one
    if (!db.defined()) {
      db = at::empty({dy.size(1), shrunk.size(1)}, dy.options().dtype(b.scalar_type()));
    }
    at::Tensor turned = db.t();
    ops::sum_of_products_(turned, {shrunk.t()}, {dy}, 1.0, /*accumulate=*/false);
  }
}

RORA_INLINE std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask) {
  at::Tensor dshrunk, db;
  write_low_rank_gradient_b(dy, shrunk, b, scale, mask, dshrunk, db);
  return {dshrunk, db};
}

RORA_INLINE at::Tensor low_rank_gradient_b_into(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, bool needs_db,
    at::Tensor& dshrunk) {
  at::Tensor db;
  write_low_rank_gradient_b(dy, shrunk, b, scale, {true, needs_db}, dshrunk, db);
  return db;
}

RORA_INLINE at::Tensor low_rank_gradient_a(
    const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, double p, int64_t seed) {
  const at::Tensor dropped = ops::dropout(x, Dropout{p, static_cast<uint64_t>(seed)});
  return ops::sum_of_products({dshrunk.t()}, {dropped}, 1.0, std::nullopt, dtype);
}

RORA_INLINE at::Tensor& low_rank_gradient_x_(
    at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, double p, int64_t seed) {
  if (p > 0.0) {
    return dx.add_(ops::dropout(ops::sum_of_products({dshrunk}, {a}), Dropout{p, static_cast<uint64_t>(seed)}));
  }
  ops::sum_of_products_(dx, {dshrunk}, {a});
  return dx;
}

RORA_INLINE at::Tensor magnitude_gradient(const at::Tensor& dy, const at::Tensor& z) {
  return (dy * z).sum(0, /*keepdim=*/false, dy.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

RORA_INLINE std::tuple<at::Tensor, at::Tensor> directed_gradient(
    const at::Tensor& dy, const at::Tensor& scale, const std::optional<at::Tensor>& y) {
  at::Tensor dz = at::empty_like(dy, at::MemoryFormat::Contiguous);
  const at::Tensor sums = directed_gradient_into(dy, scale, y, dz);
  return {std::move(dz), sums};
}

RORA_INLINE at::Tensor directed_gradient_into(
    const at::Tensor& dy, const at::Tensor& scale, const std::optional<at::Tensor>& y, at::Tensor& dz) {
  at::mul_out(dz, dy, scale.to(dy.scalar_type()));
  return y ? ops::magnitude_gradient(dy, *y) : at::Tensor();
}

RORA_INLINE at::Tensor& zero_magnitude_gradient_(
    at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& shrunk,
    const at::Tensor& b, const at::Tensor& magnitude, const at::Tensor& norm) {
  const at::Tensor z = ops::sum_of_products({x, shrunk}, {weight.t(), b.t()});
  const at::Tensor anew = at::where(norm > 0, magnitude_gradient(dy, z) / norm, 0.0);
  return gradient.copy_(at::where(magnitude == 0, anew, gradient));
}

} // namespace reference

RORA_INLINE at::Tensor low_rank_shrink(const at::Tensor& x, const at::Tensor& a, double scale, const Dropout& dropout) {
  return detail::call_operation<reference::low_rank_shrink>(
      "rora::low_rank_shrink", x, a, scale, dropout.p, static_cast<int64_t>(dropout.seed));
}

RORA_INLINE std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask,
    at::Tensor dshrunk, at::Tensor db) {
  if (!mask[1]) {
    db.reset();
  }
  if (mask[0] && dshrunk.defined() && !db.defined()) {
    db = detail::call_operation<reference::low_rank_gradient_b_into>(
        "rora::low_rank_gradient_b_into", dy, shrunk, b, scale, mask[1], dshrunk);
    return {std::move(dshrunk), std::move(db)};
  }
  if (mask[1] && db.defined()) {
    reference::write_low_rank_gradient_b(dy, shrunk, b, scale, mask, dshrunk, db);
    return {std::move(dshrunk), std::move(db)};
  }
  return detail::call_operation<reference::low_rank_gradient_b>(
      "rora::low_rank_gradient_b", dy, shrunk, b, scale, mask);
}

RORA_INLINE at::Tensor low_rank_gradient_a(
    const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, const Dropout& dropout, at::Tensor da) {
  if (da.defined()) {
    sum_of_products_(da, {dshrunk.t()}, {ops::dropout(x, dropout)}, 1.0, /*accumulate=*/false);
    return da;
  }
  return detail::call_operation<reference::low_rank_gradient_a>(
      "rora::low_rank_gradient_a", dshrunk, x, dtype, dropout.p, static_cast<int64_t>(dropout.seed));
}

RORA_INLINE void low_rank_gradient_x_(
    at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, const Dropout& dropout) {
  detail::call_operation<reference::low_rank_gradient_x_>(
      "rora::low_rank_gradient_x_", dx, dshrunk, a, dropout.p, static_cast<int64_t>(dropout.seed));
}

RORA_INLINE at::Tensor magnitude_gradient(const at::Tensor& dy, const at::Tensor& z) {
  return detail::call_operation<reference::magnitude_gradient>("rora::magnitude_gradient", dy, z);
}

RORA_INLINE std::tuple<at::Tensor, at::Tensor> directed_gradient(
    const at::Tensor& dy, const at::Tensor& scale, const at::Tensor& y, at::Tensor dz) {
  const auto given = y.defined() ? std::optional<at::Tensor>(y) : std::nullopt;
  if (dz.defined()) {
    const at::Tensor sums =
        detail::call_operation<reference::directed_gradient_into>("rora::directed_gradient_into", dy, scale, given, dz);
    return {std::move(dz), sums};
  }
  return detail::call_operation<reference::directed_gradient>("rora::directed_gradient", dy, scale, given);
}

RORA_INLINE void zero_magnitude_gradient_(
    at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& shrunk,
    const at::Tensor& b, const at::Tensor& magnitude, const at::Tensor& norm) {
  detail::call_operation<reference::zero_magnitude_gradient_>(
      "rora::zero_magnitude_gradient_", gradient, dy, x, weight, shrunk, b, magnitude, norm);
}

} // namespace rora::ops
