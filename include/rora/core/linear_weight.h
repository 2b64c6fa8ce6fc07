#pragma once

#include <rora/core/sum_of_products.h>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <optional>
#include <utility>

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
///
/// A weight that is not dense owns its tensors as named buffers (`register_buffer`), which a projection's state then holds
/// below its key `weight`. `.to(device)` moves them; `.to(dtype)` leaves them as they are.
class LinearWeight : public torch::nn::Module {
 public:
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;

  /// The dtype that the weight stands for and the device that it lies on.
  virtual at::ScalarType dtype() const = 0;
  virtual at::Device device() const = 0;

  /// W itself where it is stored as an ordinary tensor, which is then the projection's `weight`; undefined elsewhere.
  virtual at::Tensor tensor() const {
    return {};
  }

  /// A weight of the same kind and sizes, whose buffers `clone` then fills. Asked for where `tensor` is undefined.
  virtual std::shared_ptr<LinearWeight> empty_copy() const {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "this kind of base weight cannot be cloned");
  }

  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override {
    std::shared_ptr<LinearWeight> copy = empty_copy();
    copy->copy_tensors(*this, device);
    return copy;
  }

  using torch::nn::Module::to;
  void to(at::Device device, at::ScalarType, bool non_blocking = false) override {
    torch::nn::Module::to(device, non_blocking);
  }
  void to(at::ScalarType, bool = false) override {}

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

 private:
  void copy_tensors(const torch::nn::Module& other, const std::optional<at::Device>& device) {
    at::NoGradGuard no_grad;
    auto own = named_buffers();
    for (const auto& item : other.named_buffers()) {
      const at::Tensor& tensor = item.value();
      own[item.key()].set_data(device && tensor.device() != *device ? tensor.to(*device) : tensor.clone());
    }
  }
  void clone_(torch::nn::Module& other, const std::optional<at::Device>& device) override {
    copy_tensors(other, device);
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
  at::ScalarType dtype() const override {
    return weight_.scalar_type();
  }
  at::Device device() const override {
    return weight_.device();
  }
  at::Tensor tensor() const override {
    return weight_;
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
