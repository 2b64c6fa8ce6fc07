#pragma once

#include <rora/core/dora_dropout.h>
#include <rora/core/dropout.h>
#include <rora/core/gradient_buffer.h>
#include <rora/core/linear_weight.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_products.h>

#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace rora::ops {

/// One linear map with a low-rank change; x is `[..., in]`, y `[..., out]`.
///
///   LoRA:  y = W·x + s·B·A·x + bias                             (Hu et al., arXiv 2106.09685, eq 3)
///   RoRA:  the same with s = α/√r                               (arXiv 2501.04315, section 3)
///   DoRA:  y = n⊙(W·x + s·B·A·x) + bias, n = m/‖W + s·B·A‖      (Liu et al., arXiv 2402.09353, eq 5 and section 4.3)
struct LowRankTerm {
  std::shared_ptr<const LinearWeight> weight; ///< W
  at::Tensor trainable_weight; ///< W once more where it is dense and itself trained
  at::Tensor bias; ///< `[out]` or undefined
  at::Tensor a; ///< A `[rank, in]`; undefined: the frozen layer
  at::Tensor b; ///< B `[out, rank]`
  double scale = 1.0; ///< s
  Dropout dropout; ///< of the low-rank branch's input
  at::Tensor magnitude; ///< m `[out]`; undefined: no DoRA
  at::Tensor norm; ///< ‖W + s·B·A‖ of each row `[out]`, a constant of the graph
  DoraDropout dora_dropout = DoraDropout::kInput;
  std::shared_ptr<GradientBuffer> a_gradient; ///< where A's gradient may be written; null: nowhere
  std::shared_ptr<GradientBuffer> b_gradient; ///< the same of B

  bool low_rank() const {
    return a.defined();
  }
  bool dora() const {
    return magnitude.defined();
  }
  /// Whether the frozen product reads dropped inputs too.
  bool drops_input() const {
    return dora() && dropout.active() && dora_dropout == DoraDropout::kInput;
  }
  /// n `[out]` in the norm's dtype: 0 for a row whose norm is 0, as PEFT's division would make it NaN.
  at::Tensor direction_scale() const {
    return at::where(norm > 0, magnitude.detach().to(norm.scalar_type()) / norm, 0.0);
  }
};

namespace detail {

/// What a term's forward leaves for its backward.
struct SavedTerm {
  at::Tensor shrunk; ///< Ŝ = s·drop(x)·Aᵀ `[tokens, rank]`: with s folded in once, dB = dzᵀ·Ŝ
  at::Tensor directed; ///< what n multiplies, where y cannot give it back
};

/// (W·x + B·Ŝ)⊙column_scale.
inline at::Tensor adapted_product(
    const LowRankTerm& term, const at::Tensor& x, const at::Tensor& shrunk, const std::optional<at::Tensor>& column_scale) {
  if (const at::Tensor w = term.weight->forward_matrix(); w.defined()) {
    return sum_of_products({x, shrunk}, {w, term.b.t()}, 1.0, column_scale);
  }
  at::Tensor y = term.weight->forward(x);
  sum_of_products_(y, {shrunk}, {term.b.t()});
  return column_scale ? y.mul_(column_scale->to(y.scalar_type())) : y;
}

/// y `[tokens, out]` of a term from x `[tokens, in]`. `saved.shrunk` may be there already.
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

/// The gradients of one term; undefined where not asked for.
struct LowRankGradients {
  at::Tensor weight;
  at::Tensor bias;
  at::Tensor a;
  at::Tensor b;
  at::Tensor magnitude;
};

/// colsum(dy⊙z)/‖W + s·B·A‖, where n⊙z = y − bias gave y: z comes back from y wherever m ≠ 0 and else is made anew.
inline at::Tensor direction_gradient(
    const LowRankTerm& term,
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& y,
    const SavedTerm& saved) {
  const bool on_cpu = x.is_cpu(); // elsewhere, looking at the magnitude would wait for the device
  if (!saved.directed.defined() && !(on_cpu && (term.magnitude == 0).any().item<bool>())) {
    at::Tensor sum = magnitude_gradient(dy, y);
    if (term.bias.defined()) {
      sum = sum - dy.sum(0, /*keepdim=*/false, sum.scalar_type()) * term.bias.to(sum.scalar_type());
    }
    at::Tensor gradient = sum / term.magnitude;
    if (!on_cpu) {
      zero_magnitude_gradient_(
          gradient, dy, x, term.weight->dense(), saved.shrunk, term.b, term.magnitude, term.norm);
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

/// Adds a term's share to `input` and returns its gradients. `needs` says, in the order of `LowRankGradients`, which are
/// asked for. Where `shared` is given, s·dz·B is written into that tensor, or made where it is undefined, and what comes of it
/// (dA, a share of dx) left to the caller.
inline LowRankGradients low_rank_backward(
    const LowRankTerm& term,
    const LowRankForm& form,
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& y,
    const SavedTerm& saved,
    const std::array<bool, 5>& needs,
    InputGradient& input,
    at::Tensor* shared) {
  const auto [needs_weight, needs_bias, needs_a, needs_b, needs_magnitude] = needs;
  LowRankGradients gradients;
  if (needs_bias) {
    gradients.bias = dy.sum(0);
  }
  const at::Tensor dz = term.dora() ? dy * term.direction_scale().to(dy.scalar_type()) : dy;
  if (needs_weight) {
    gradients.weight =
        term.drops_input() ? dy.t().mm(x).add_((dz - dy).t().mm(dropout(x, term.dropout))) : dz.t().mm(x);
  }
  if (input.wanted()) {
    input.add(*term.weight, term.drops_input() ? dy : dz);
  }
  if (!term.low_rank()) {
    return gradients;
  }
  if (needs_magnitude) {
    gradients.magnitude = direction_gradient(term, dy, x, y, saved);
  }
  at::Tensor dshrunk = shared != nullptr ? *shared : at::Tensor();
  std::tie(dshrunk, gradients.b) = low_rank_gradient_b(
      dz, saved.shrunk, term.b, term.scale, {shared != nullptr || needs_a || input.wanted(), needs_b}, dshrunk,
      needs_b ? take_buffer(term.b_gradient, term.b) : at::Tensor());
  if (shared != nullptr) {
    *shared = dshrunk;
    return gradients;
  }
  if (needs_a) {
    gradients.a =
        low_rank_gradient_a(dshrunk, x, term.a.scalar_type(), term.dropout, take_buffer(term.a_gradient, term.a));
  }
  if (input.wanted() && term.drops_input()) {
    InputGradient dropped(true);
    dropped.add(*term.weight, dz - dy);
    dropped.add(hstack({dshrunk}, form), vstack({term.a}, form));
    input.add(dropout(dropped.sum(), term.dropout));
  } else if (input.wanted()) {
    input.add_dropped(
        hstack({dshrunk}, form), vstack({term.a}, form), term.dropout);
  }
  return gradients;
}

} // namespace detail
} // namespace rora::ops
