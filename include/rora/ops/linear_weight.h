#pragma once

#include <rora/ops/sum_of_products.h>

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <optional>

namespace rora::ops {

namespace detail {

/// x·w `[rows, out]` of x in fp32 and w in bf16, in fp32, where products of one dtype alone are fast: x is the sum of two
/// of bf16, of which the second holds what the first leaves, to 16 bits in all. Each element of x is off by 2⁻¹⁷ of itself
/// at most. Both stand in one product, so that w is read once and never copied.
inline at::Tensor product_of_halves(const at::Tensor& x, const at::Tensor& w) {
  const at::Tensor high = x.to(at::kBFloat16);
  const at::Tensor low = (x - high).to(at::kBFloat16); // the difference is exact
  const at::Tensor halves = sum_of_products({at::cat({high, low})}, {w}, 1.0, std::nullopt, at::kFloat);
  return halves.narrow(0, 0, x.size(0)) + halves.narrow(0, x.size(0), x.size(0));
}

} // namespace detail

/// The frozen weight W `[out_features, in_features]` of a linear map, however it is stored: dense, reordered for the
/// processor, or quantised. A projection never assumes a dense tensor.
class LinearWeight : public c10::intrusive_ptr_target {
 public:
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;

  /// Wᵀ `[in, out]` and W `[out, in]` as right sides of `sum_of_products`, which may then add other products to theirs;
  /// undefined where W's storage is none that it takes.
  virtual at::Tensor forward_matrix() const {
    return {};
  }
  virtual at::Tensor backward_matrix() const {
    return {};
  }

  /// x·Wᵀ: x `[tokens, in]` → `[tokens, out]`, in x's dtype.
  virtual at::Tensor forward(const at::Tensor& x) const = 0;

  /// dy·W: dy `[tokens, out]` → `[tokens, in]`, in dy's dtype.
  virtual at::Tensor backward(const at::Tensor& dy) const = 0;

  /// x·Wᵀ in x's dtype, which may be wider than the weight's: for norms, which bf16 products would blur. The CPU's
  /// products take the two dtypes as they are; elsewhere, where W in fp32 would be a copy, x in fp32 beside a W in bf16 is
  /// taken to 16 bits, which changes a norm by less than fp32 rounds it.
  virtual at::Tensor forward_wide(const at::Tensor& x) const {
    const at::Tensor w = dense().t();
    const bool in_halves = !x.is_cpu() && x.scalar_type() == at::kFloat && w.scalar_type() == at::kBFloat16;
    return in_halves ? detail::product_of_halves(x, w) : sum_of_products({x}, {w});
  }

  /// W as a dense tensor; dequantised where it is quantised.
  virtual at::Tensor dense() const = 0;

  /// Bytes that other layouts of W take beside it.
  virtual int64_t packed_bytes() const {
    return 0;
  }
};

/// A weight that is an ordinary tensor. It shares the tensor it is given: a change of the tensor is seen here.
class DenseWeight : public LinearWeight {
 public:
  explicit DenseWeight(at::Tensor weight) : weight_(std::move(weight)) {}

  int64_t in_features() const override {
    return weight_.size(1);
  }
  int64_t out_features() const override {
    return weight_.size(0);
  }
  at::Tensor forward_matrix() const override {
    return weight_.t();
  }
  at::Tensor backward_matrix() const override {
    return weight_;
  }
  at::Tensor forward(const at::Tensor& x) const override {
    return sum_of_products({x}, {weight_.t()});
  }
  at::Tensor backward(const at::Tensor& dy) const override {
    return sum_of_products({dy}, {weight_});
  }
  at::Tensor dense() const override {
    return weight_;
  }

 private:
  at::Tensor weight_;
};

} // namespace rora::ops
