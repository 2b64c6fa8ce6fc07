#pragma once

#include <rora/core/gradient_buffer.h>
#include <rora/core/linear_weight.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_products.h>
#include <rora/core/low_rank_term.h>
#include <rora/core/sum_of_products.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace rora::ops {
namespace detail {

/// One T for each tensor of a term that may be trained. `all` gives them in the one order that autograd sees them in.
template <class T>
struct ByParameter {
  T weight{};
  T bias{};
  T a{};
  T b{};
  T magnitude{};

  std::array<T*, 5> all() {
    return {&weight, &bias, &a, &b, &magnitude};
  }
};

/// The term's tensors in that order.
inline std::array<at::Tensor*, 5> parameters_of(LowRankTerm& term) {
  ByParameter<at::Tensor*> parameters{
      .weight = &term.trainable_weight, .bias = &term.bias, .a = &term.a, .b = &term.b, .magnitude = &term.magnitude};
  std::array<at::Tensor*, 5> in_order{};
  std::ranges::transform(parameters.all(), in_order.begin(), [](at::Tensor** each) { return *each; });
  return in_order;
}

/// What a term's backward reads of the forward, beside the term's constants. Undefined: nothing reads it.
struct SavedTerm {
  ByParameter<at::Tensor> parameters; ///< the term's own, which autograd keeps with their versions
  at::Tensor shrunk; ///< Ŝ = s·drop(x)·Aᵀ `[tokens, rank]`: with s folded in once, dB = dzᵀ·Ŝ
  at::Tensor directed; ///< what n multiplies, `[tokens, out]`, where y cannot give it back
  at::Tensor output; ///< y, where it can

  std::vector<at::Tensor*> all() {
    std::vector<at::Tensor*> tensors{&shrunk, &directed, &output};
    for (at::Tensor* each : parameters.all()) {
      tensors.push_back(each);
    }
    return tensors;
  }
};

/// (W·x + B·Ŝ)⊙column_scale.
inline at::Tensor adapted_product(
    const LowRankTerm& term, const at::Tensor& x, const at::Tensor& shrunk,
    const std::optional<at::Tensor>& column_scale) {
  if (const at::Tensor w = term.weight->forward_matrix(); w.defined()) {
    return sum_of_products({x, shrunk}, {w, term.b.t()}, 1.0, column_scale);
  }
  at::Tensor y = term.weight->forward(x);
  sum_of_products_(y, {shrunk}, {term.b.t()});
  return column_scale ? y.mul_(column_scale->to(y.scalar_type())) : y;
}

/// y `[tokens, out]` of a term from x `[tokens, in]`; leaves Ŝ and what n multiplies in `saved`. Ŝ may be there
/// already.
inline at::Tensor low_rank_forward(const LowRankTerm& term, const at::Tensor& x, SavedTerm& saved) {
  const auto dtype = x.scalar_type();
  at::Tensor y;
  if (!term.low_rank()) {
    y = term.weight->forward(x);
  } else {
    const at::Tensor dropped = term.drops_input() ? dropout(x, term.dropout) : at::Tensor();
    if (!saved.shrunk.defined()) {
      saved.shrunk = dropped.defined() ? low_rank_shrink(dropped, term.a, term.scale)
                                       : low_rank_shrink(x, term.a, term.scale, term.dropout);
    }
    if (!term.dora()) {
      y = adapted_product(term, x, saved.shrunk, std::nullopt);
    } else if (const at::Tensor n = term.direction_scale(); term.drops_input()) {
      saved.directed = adapted_product(term, dropped, saved.shrunk, std::nullopt);
      y = term.weight->forward(x - dropped).add_(saved.directed * n.to(dtype)); // W·x − W·drop(x) + n⊙z
    } else {
      y = adapted_product(term, x, saved.shrunk, n);
    }
  }
  return term.bias.defined() ? y.add_(term.bias.to(dtype)) : y;
}

/// Whether z comes back from y, as n⊙z = y − bias: wherever m ≠ 0. Elsewhere than on the CPU, where looking at the
/// magnitude would wait for the device, those of m = 0 are made anew behind it.
inline bool comes_from_output(const LowRankTerm& term, const SavedTerm& saved) {
  return saved.output.defined() && !(saved.output.is_cpu() && (term.magnitude == 0).any().item<bool>());
}

/// dm = colsum(dy⊙z)/‖W + s·B·A‖. `sum` is colsum(dy⊙y), where z comes back from y.
inline at::Tensor direction_gradient(
    const LowRankTerm& term, const at::Tensor& dy, const at::Tensor& x, const SavedTerm& saved, at::Tensor sum) {
  if (sum.defined()) {
    if (term.bias.defined()) {
      sum = sum - dy.sum(0, /*keepdim=*/false, sum.scalar_type()) * term.bias.to(sum.scalar_type());
    }
    at::Tensor gradient = sum / term.magnitude;
    if (!x.is_cpu()) {
      zero_magnitude_gradient_(gradient, dy, x, term.weight->dense(), saved.shrunk, term.b, term.magnitude, term.norm);
    }
    return gradient;
  }
  at::Tensor z = saved.directed;
  if (!z.defined()) {
    z = adapted_product(term, x, saved.shrunk, std::nullopt);
  }
  return at::where(term.norm > 0, magnitude_gradient(dy, z) / term.norm, 0.0);
}

/// dx `[tokens, in]` of a node: what its terms give it is added up in one product, where their weights are matrices.
class InputGradient {
 public:
  explicit InputGradient(bool wanted) : wanted_(wanted) {}

  bool wanted() const {
    return wanted_;
  }
  /// dy·W.
  void add(const LinearWeight& weight, const at::Tensor& dy) {
    if (const at::Tensor w = weight.backward_matrix(); !w.defined()) {
      add(weight.backward(dy));
    } else {
      add(dy, w);
    }
  }
  /// a·b.
  void add(const at::Tensor& a, const at::Tensor& b) {
    left_.push_back(a);
    right_.push_back(b);
  }
  /// drop(dS·A).
  void add_dropped(const at::Tensor& dshrunk, const at::Tensor& a, const Dropout& dropout) {
    if (dropout.active()) {
      dropped_.emplace_back(dshrunk, a, dropout);
    } else {
      add(dshrunk, a);
    }
  }
  /// A share as it is; it may be written into.
  void add(at::Tensor share) {
    whole_ = whole_.defined() ? whole_.add_(share) : std::move(share);
  }
  /// Undefined where nothing was added.
  at::Tensor sum() {
    if (!whole_.defined() && !left_.empty()) {
      whole_ = sum_of_products(left_, right_);
    } else if (!left_.empty()) {
      sum_of_products_(whole_, left_, right_);
    }
    for (const auto& [dshrunk, a, dropout] : dropped_) {
      low_rank_gradient_x_(whole_, dshrunk, a, dropout);
    }
    return whole_;
  }

 private:
  bool wanted_;
  std::vector<at::Tensor> left_, right_;
  std::vector<std::tuple<at::Tensor, at::Tensor, Dropout>> dropped_;
  at::Tensor whole_;
};

/// Adds a term's share to `input` and returns its gradients, those that `needs` asks for. dy `[tokens, out]`; x
/// `[tokens, in]`. Where `shared` is given, s·dz·B is written into that tensor, or made where it is undefined, and what
/// comes of it (dA, a share of dx) left to the caller. A dz that is not dy is written into `directed` where that is
/// defined.
inline ByParameter<at::Tensor> low_rank_backward(
    const LowRankTerm& term, const LowRankForm& form, const at::Tensor& dy, const at::Tensor& x, const SavedTerm& saved,
    const ByParameter<bool>& needs, InputGradient& input, at::Tensor* shared, const at::Tensor& directed = {}) {
  ByParameter<at::Tensor> gradients;
  if (needs.bias) {
    gradients.bias = dy.sum(0);
  }
  at::Tensor dz = dy, with_output;
  if (term.dora()) {
    const bool reads_output = needs.magnitude && comes_from_output(term, saved);
    std::tie(dz, with_output) = directed_gradient(
        dy, term.direction_scale(), reads_output ? saved.output.reshape({-1, saved.output.size(-1)}) : at::Tensor(),
        directed);
  }
  if (needs.weight) {
    gradients.weight =
        term.drops_input() ? dy.t().mm(x).add_((dz - dy).t().mm(dropout(x, term.dropout))) : dz.t().mm(x);
  }
  if (input.wanted()) {
    input.add(*term.weight, term.drops_input() ? dy : dz);
  }
  if (!term.low_rank()) {
    return gradients;
  }
  if (needs.magnitude) {
    gradients.magnitude = direction_gradient(term, dy, x, saved, with_output);
  }
  at::Tensor dshrunk = shared != nullptr ? *shared : at::Tensor();
  std::tie(dshrunk, gradients.b) = low_rank_gradient_b(
      dz, saved.shrunk, term.b, term.scale, {shared != nullptr || needs.a || input.wanted(), needs.b}, dshrunk,
      needs.b ? take_buffer(term.b_gradient, term.b) : at::Tensor());
  if (shared != nullptr) {
    *shared = dshrunk;
    return gradients;
  }
  if (needs.a) {
    gradients.a =
        low_rank_gradient_a(dshrunk, x, term.a.scalar_type(), term.dropout, take_buffer(term.a_gradient, term.a));
  }
  if (input.wanted() && term.drops_input()) {
    InputGradient dropped(true);
    dropped.add(*term.weight, dz - dy);
    dropped.add(hstack({dshrunk}, form), vstack({term.a}, form));
    input.add(dropout(dropped.sum(), term.dropout));
  } else if (input.wanted()) {
    input.add_dropped(hstack({dshrunk}, form), vstack({term.a}, form), term.dropout);
  }
  return gradients;
}

} // namespace detail
} // namespace rora::ops
