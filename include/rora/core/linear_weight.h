#pragma once

#include <rora/core/linkage.h>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>

namespace rora::ops {

/// The frozen weight W `[out_features, in_features]` of a linear map, however it is stored: dense, reordered for the
/// processor, or quantised. A projection never assumes a dense tensor.
///
/// A weight that is not dense owns its tensors as named buffers (`register_buffer`), which a projection's state then
/// holds below its key `weight`. `.to(device)` moves them; `.to(dtype)` leaves them as they are.
class LinearWeight : public torch::nn::Module {
 public:
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;

  /// The dtype that the weight stands for and the device that it lies on.
  virtual at::ScalarType dtype() const = 0;
  virtual at::Device device() const = 0;

  /// W itself where it is stored as an ordinary tensor, which is then the projection's `weight`; undefined elsewhere.
  virtual at::Tensor tensor() const;

  /// A weight of the same kind and sizes, whose buffers `clone` then fills. Asked for where `tensor` is undefined.
  virtual std::shared_ptr<LinearWeight> empty_copy() const;

  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;

  using torch::nn::Module::to;
  void to(at::Device device, at::ScalarType dtype, bool non_blocking = false) override;
  void to(at::ScalarType dtype, bool non_blocking = false) override;

  /// Wᵀ `[in, out]` and W `[out, in]` as right sides of `sum_of_products`, which may then add other products to theirs;
  /// undefined where W's storage is none that it takes.
  virtual at::Tensor forward_matrix() const;
  virtual at::Tensor backward_matrix() const;

  /// Memory `[out, columns]` of W's dtype behind each row of W, for a B that is to go into one product with it: W's row
  /// and B's are then one. It holds what the last one to ask has put there. Undefined: there is none.
  virtual at::Tensor beside(int64_t columns) const;

  /// Memory `[rows, in]` of W's dtype below W's last row, in rows as far apart as W's, for an A that is to go into one
  /// product with it: (W ; A). It holds what the last one to ask has put there. Undefined: there is none.
  virtual at::Tensor below(int64_t rows) const;

  /// x·Wᵀ: x `[tokens, in]` → `[tokens, out]`, in x's dtype.
  virtual at::Tensor forward(const at::Tensor& x) const = 0;

  /// dy·W: dy `[tokens, out]` → `[tokens, in]`, in dy's dtype.
  virtual at::Tensor backward(const at::Tensor& dy) const = 0;

  /// x·Wᵀ in x's dtype, which may be wider than the weight's: for norms, which bf16 products would blur. The CPU's
  /// products take the two dtypes as they are; elsewhere, where W in fp32 would be a copy, x in fp32 beside a W in bf16
  /// is taken to 16 bits, which changes a norm by less than fp32 rounds it.
  virtual at::Tensor forward_wide(const at::Tensor& x) const;

  /// W as a dense tensor; dequantised where it is quantised.
  virtual at::Tensor dense() const = 0;

  /// Bytes that other layouts of W take beside it.
  virtual int64_t prepacked_bytes() const;

 private:
  void copy_tensors(const torch::nn::Module& other, const std::optional<at::Device>& device);
  void clone_(torch::nn::Module& other, const std::optional<at::Device>& device) override;
};

/// A weight that is an ordinary tensor. It shares the tensor it is given: a change of the tensor is seen here.
class DenseWeight : public LinearWeight {
 public:
  explicit DenseWeight(at::Tensor weight);

  int64_t in_features() const override;
  int64_t out_features() const override;
  at::ScalarType dtype() const override;
  at::Device device() const override;
  at::Tensor tensor() const override;
  at::Tensor forward_matrix() const override;
  at::Tensor backward_matrix() const override;
  at::Tensor forward(const at::Tensor& x) const override;
  at::Tensor backward(const at::Tensor& dy) const override;
  at::Tensor dense() const override;

 private:
  at::Tensor weight_;
};

} // namespace rora::ops

#if !defined(RORA_LINKED)
#include <rora/core/linear_weight_inl.h>
#endif
