#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <memory>
#include <string>

namespace rora {

class ProjectionImpl;

/// What is known of a weight before its adapter begins: each is there where the initializer asks for it.
struct WeightStatistics {
  at::Tensor gradient; ///< the mean of ∂L/∂W over some batches, `[out, in]` in fp32
  at::Tensor input_moment; ///< the mean of x·xᵀ over tokens, `[in, in]` in fp32
};

/// The tensors that an initializer fills.
struct InitialFactors {
  at::Tensor a; ///< `[rank, in]`
  at::Tensor b; ///< `[out, rank]`
  double scale = 1.0; ///< s of W + s·B·A
};

/// How a low-rank adapter begins.
class Initializer {
 public:
  virtual ~Initializer() = default;

  /// The value of `init_lora_weights` that a folder's config holds: "true", "gaussian" ….
  virtual std::string name() const = 0;

  /// What `initialize` reads of `WeightStatistics`.
  virtual bool needs_gradient() const {
    return false;
  }
  virtual bool needs_input_moment() const {
    return false;
  }

  /// Whether W − s·B·A, with the factors as they begin, takes W's place, so that the adapted layer begins as the frozen one.
  virtual bool rewrites_base() const {
    return false;
  }

  /// Fills A and B for `projection`, whose weight is the base's.
  virtual void initialize(
      const ProjectionImpl& projection, const WeightStatistics& statistics, InitialFactors factors) const = 0;
};

namespace detail {

/// A drawn at random, B zero: the adapted layer begins as the frozen one. Numbers come from LibTorch's default generator of
/// the CPU whatever the tensors' device: a seed gives the same adapter everywhere.
class RandomInitializer : public Initializer {
 public:
  void initialize(const ProjectionImpl&, const WeightStatistics&, InitialFactors factors) const override {
    at::NoGradGuard no_grad;
    at::Tensor& a = factors.a;
    at::Tensor drawn = a.is_cpu() ? a : at::empty(a.sizes(), a.options().device(at::kCPU));
    draw(drawn);
    if (!a.is_cpu()) {
      a.copy_(drawn);
    }
    factors.b.zero_();
  }

 private:
  virtual void draw(at::Tensor& a) const = 0;
};

class KaimingUniform final : public RandomInitializer {
 public:
  std::string name() const override {
    return "true";
  }

 private:
  void draw(at::Tensor& a) const override {
    // Kaiming with slope √5 has the bound √(6 / (1 + 5) / in).
    const double bound = 1.0 / std::sqrt(static_cast<double>(a.size(1)));
    a.uniform_(-bound, bound);
  }
};

class Gaussian final : public RandomInitializer {
 public:
  std::string name() const override {
    return "gaussian";
  }

 private:
  void draw(at::Tensor& a) const override {
    a.normal_(0.0, 1.0 / static_cast<double>(a.size(0)));
  }
};

} // namespace detail

/// A uniform in ±1/√in, as `torch::nn::Linear`'s weight, and B zero: what PEFT's `init_lora_weights=True` means.
inline std::shared_ptr<const Initializer> kaiming_uniform() {
  static const auto instance = std::make_shared<const detail::KaimingUniform>();
  return instance;
}

/// A normal with deviation 1/rank, and B zero: PEFT's "gaussian".
inline std::shared_ptr<const Initializer> gaussian() {
  static const auto instance = std::make_shared<const detail::Gaussian>();
  return instance;
}

} // namespace rora
