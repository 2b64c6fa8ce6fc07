#pragma once

#include <rora/core/dropout.h>
#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

namespace rora::ops {

namespace reference {

at::Tensor dropout(const at::Tensor& x, double p, int64_t seed);

} // namespace reference

/// x with each element dropped or divided by 1 − p, as `Dropout` says; x itself where p is 0.
at::Tensor dropout(const at::Tensor& x, const Dropout& dropout);

/// The products of a low-rank change, over sum_of_products: what any device runs, and what the headers use alone.
namespace reference {

at::Tensor low_rank_shrink(const at::Tensor& x, const at::Tensor& a, double scale, double p, int64_t seed);

/// Into the tensors that are defined; the others are made.
void write_low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask,
    at::Tensor& dshrunk, at::Tensor& db);

std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask);

/// The first into `dshrunk`; returns the second.
at::Tensor low_rank_gradient_b_into(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, bool needs_db,
    at::Tensor& dshrunk);

at::Tensor low_rank_gradient_a(
    const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, double p, int64_t seed);

at::Tensor& low_rank_gradient_x_(
    at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, double p, int64_t seed);

at::Tensor magnitude_gradient(const at::Tensor& dy, const at::Tensor& z);

std::tuple<at::Tensor, at::Tensor> directed_gradient(
    const at::Tensor& dy, const at::Tensor& scale, const std::optional<at::Tensor>& y);

/// The first into `dz`; returns the second.
at::Tensor directed_gradient_into(
    const at::Tensor& dy, const at::Tensor& scale, const std::optional<at::Tensor>& y, at::Tensor& dz);

at::Tensor& zero_magnitude_gradient_(
    at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& shrunk,
    const at::Tensor& b, const at::Tensor& magnitude, const at::Tensor& norm);

} // namespace reference

/// Ŝ = s·drop(x)·Aᵀ `[tokens, rank]`: with s folded in once, y = W·x + B·Ŝ and dB = dyᵀ·Ŝ.
at::Tensor low_rank_shrink(const at::Tensor& x, const at::Tensor& a, double scale, const Dropout& dropout = {});

/// (s·dy·B `[tokens, rank]` in dy's dtype, dyᵀ·Ŝ `[out, rank]` in b's), each where `mask` asks for it; written into
/// `dshrunk` and `db` where these are given. Ŝ is only read for the second, and may else be undefined.
std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask,
    at::Tensor dshrunk = {}, at::Tensor db = {});

/// dSᵀ·drop(x) `[rank, in]` in `dtype`; written into `da` where that is given.
at::Tensor low_rank_gradient_a(
    const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, const Dropout& dropout = {},
    at::Tensor da = {});

/// dx + drop(dS·A), in dx `[tokens, in]`.
void low_rank_gradient_x_(at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, const Dropout& dropout);

/// colsum(dy⊙z) `[out]` in fp32 (fp64 for fp64).
at::Tensor magnitude_gradient(const at::Tensor& dy, const at::Tensor& z);

/// (dy⊙scale in dy's dtype, colsum(dy⊙y) as of `magnitude_gradient`) in one pass over dy where the device can; the
/// second is undefined where y is. `scale` `[out]` is rounded to dy's dtype first. The first is written into `dz` where
/// that is given.
std::tuple<at::Tensor, at::Tensor> directed_gradient(
    const at::Tensor& dy, const at::Tensor& scale, const at::Tensor& y = {}, at::Tensor dz = {});

/// Puts colsum(dy⊙z)/norm, z = x·Wᵀ + Ŝ·Bᵀ, into the elements of the magnitude's gradient `[out]` whose magnitude is 0,
/// and 0 where the norm is, too. Whether there are any is found out on the device; nothing waits for the answer.
void zero_magnitude_gradient_(
    at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& shrunk,
    const at::Tensor& b, const at::Tensor& magnitude, const at::Tensor& norm);

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/low_rank_products_inl.h>
#endif
