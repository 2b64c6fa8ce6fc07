#pragma once

#include <rora/core/initializer.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

namespace rora {

RORA_INLINE Initializer::~Initializer() = default;

RORA_INLINE bool Initializer::needs_gradient() const {
  return false;
}

RORA_INLINE bool Initializer::needs_input_moment() const {
  return false;
}

RORA_INLINE void Initializer::condense(
    const ProjectionImpl& /*projection*/, int64_t /*rank*/, WeightStatistics& /*statistics*/) const {}

RORA_INLINE std::vector<ChosenRank> Initializer::choose_ranks(
    const std::vector<RankCandidate>& /*candidates*/, const LowRankOptions& /*options*/) const {
  return {};
}

RORA_INLINE bool Initializer::rewrites_base() const {
  return false;
}

namespace detail {

/// A drawn at random, B zero: the adapted layer begins as the frozen one. Numbers come from LibTorch's default
/// generator of the CPU whatever the tensors' device: a seed gives the same adapter everywhere.
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

RORA_INLINE std::shared_ptr<const Initializer> kaiming_uniform() {
  static const auto instance = std::make_shared<const detail::KaimingUniform>();
  return instance;
}

RORA_INLINE std::shared_ptr<const Initializer> gaussian() {
  static const auto instance = std::make_shared<const detail::Gaussian>();
  return instance;
}

} // namespace rora
