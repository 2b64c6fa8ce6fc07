#pragma once

#include <rora/ops/dropout.h>
#include <rora/ops/linear_weight.h>
#include <rora/ops/low_rank_matrices.h>
#include <rora/ops/low_rank_products.h>

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace rora::ops {

/// Which input of a DoRA layer dropout falls on; without dropout the two are one.
enum class DoraDropout {
  kInput, ///< PEFT: W·x + (n−1)⊙W·drop(x) + n⊙s·B·A·drop(x), which takes a second frozen product
  kLowRank, ///< torchtune: n⊙(W·x + s·B·A·drop(x))
};

/// One linear map with a low-rank change; x is `[..., in]`, y `[..., out]`.
///
///   LoRA:  y = W·x + s·B·A·x + bias                             (Hu et al., arXiv 2106.09685, eq 3)
///   RoRA:  the same with s = α/√r                               (arXiv 2501.04315, section 3)
///   DoRA:  y = n⊙(W·x + s·B·A·x) + bias, n = m/‖W + s·B·A‖      (Liu et al., arXiv 2402.09353, eq 5 and section 4.3)
struct LowRankTerm {
  c10::intrusive_ptr<LinearWeight> weight; ///< W
  at::Tensor trainable_weight; ///< W once more where it is dense and itself trained
  at::Tensor bias; ///< `[out]` or undefined
  at::Tensor a; ///< A `[rank, in]`; undefined: the frozen layer
  at::Tensor b; ///< B `[out, rank]`
  double scale = 1.0; ///< s
  Dropout dropout; ///< of the low-rank branch's input
  at::Tensor magnitude; ///< m `[out]`; undefined: no DoRA
  at::Tensor norm; ///< ‖W + s·B·A‖ of each row `[out]`, a constant of the graph
  DoraDropout dora_dropout = DoraDropout::kInput;

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
/// asked for. Where `shared` is given, s·dz·B is appended to it, and what comes of that (dA, a share of dx) left to the
/// caller.
inline LowRankGradients low_rank_backward(
    const LowRankTerm& term,
    const LowRankForm& form,
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& y,
    const SavedTerm& saved,
    const std::array<bool, 5>& needs,
    InputGradient& input,
    std::vector<at::Tensor>* shared) {
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
  at::Tensor dshrunk;
  std::tie(dshrunk, gradients.b) =
      low_rank_gradient_b(dz, saved.shrunk, term.b, term.scale, {needs_a || input.wanted(), needs_b});
  if (shared != nullptr) {
    shared->push_back(dshrunk);
    return gradients;
  }
  if (needs_a) {
    gradients.a = low_rank_gradient_a(dshrunk, x, term.a.scalar_type(), term.dropout);
  }
  if (input.wanted() && term.drops_input()) {
    InputGradient dropped(true);
    dropped.add(*term.weight, dz - dy);
    dropped.add(columns_beside_each_other({dshrunk}, form), rows_above_each_other({term.a}, form));
    input.add(dropout(dropped.sum(), term.dropout));
  } else if (input.wanted()) {
    input.add_dropped(
        columns_beside_each_other({dshrunk}, form), rows_above_each_other({term.a}, form), term.dropout);
  }
  return gradients;
}

/// The terms of a graph node, without the tensors that autograd itself keeps.
struct LowRankNode : torch::CustomClassHolder {
  std::vector<LowRankTerm> terms;
  LowRankForm form;
};

/// Whether the terms' A may stand side by side, as one product with x: each is low-rank, of the same scale and dtype, and
/// reads x itself.
inline bool shares_shrink(const std::vector<LowRankTerm>& terms) {
  for (const LowRankTerm& term : terms) {
    if (!term.low_rank() || term.dropout.active() || term.scale != terms[0].scale ||
        term.a.scalar_type() != terms[0].a.scalar_type()) {
      return false;
    }
  }
  return terms.size() > 1;
}

/// Whether one Ŝ, formed before, may serve for the terms: they share it, or there is one, whose branch reads x itself.
inline bool takes_shrunk(const std::vector<LowRankTerm>& terms) {
  return shares_shrink(terms) || (terms.size() == 1 && terms[0].low_rank() && !terms[0].dropout.active());
}

/// The terms' A side by side, for one product with x `[Σ padded rank, in]`.
inline at::Tensor side_by_side(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  std::vector<at::Tensor> all;
  for (const LowRankTerm& term : terms) {
    all.push_back(term.a);
  }
  return rows_above_each_other(all, form);
}

/// The terms with B as products take it.
inline std::vector<LowRankTerm> with_b_for_products(std::vector<LowRankTerm> terms, const LowRankForm& form) {
  std::vector<at::Tensor> all;
  for (const LowRankTerm& term : terms) {
    if (term.low_rank()) {
      all.push_back(term.b);
    }
  }
  auto next = (all = columns_in_multiples(std::move(all), form)).begin();
  for (LowRankTerm& term : terms) {
    if (term.low_rank()) {
      term.b = *next++;
    }
  }
  return terms;
}

/// All projections of one input as one node: x is read once for all low-rank branches, and dx is one sum.
class LowRankLinearFunction : public torch::autograd::Function<LowRankLinearFunction> {
 public:
  /// The tensors of a term that may need a gradient, in the order of `LowRankGradients`.
  static std::array<at::Tensor*, 5> parameters(LowRankTerm& term) {
    return {&term.trainable_weight, &term.bias, &term.a, &term.b, &term.magnitude};
  }

  /// `tensors` are the defined `parameters` of all terms, in order: autograd finds its inputs there.
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* ctx,
      const at::Tensor& x,
      at::TensorList tensors,
      const std::vector<LowRankTerm>& terms,
      const LowRankForm& form,
      const std::optional<at::Tensor>& shrunk) {
    ctx->set_materialize_grads(false);
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    auto node = c10::make_intrusive<LowRankNode>();
    node->terms = terms;
    node->form = form;
    std::vector<LowRankTerm> own = with_b_for_products(terms, form);
    at::Tensor shared = shrunk.value_or(at::Tensor());
    if (!shared.defined() && shares_shrink(terms)) {
      shared = low_rank_shrink(rows, side_by_side(terms, form), terms[0].scale);
    }
    torch::autograd::variable_list outputs, kept;
    bool needs_x = false;
    int64_t column = 0;
    std::vector<at::Tensor> extra;
    for (size_t i = 0; i < terms.size(); ++i) {
      const LowRankTerm& term = terms[i];
      SavedTerm saved;
      if (shared.defined()) {
        const int64_t width = form.padded(term.a.size(0));
        saved.shrunk = shared.narrow(1, column, width);
        column += width;
      } else if (term.low_rank()) {
        own[i].a = rows_above_each_other({term.a}, form);
      }
      at::Tensor y = low_rank_forward(own[i], rows, saved);
      if (term.low_rank()) {
        saved.shrunk = saved.shrunk.narrow(1, 0, term.a.size(0));
      }
      auto shape = x.sizes().vec();
      shape.back() = y.size(1);
      outputs.push_back(y.view(shape));
      const bool b_trains = term.b.defined() && term.b.requires_grad();
      const bool m_trains = term.dora() && term.magnitude.requires_grad();
      needs_x |= (term.a.defined() && term.a.requires_grad()) || term.trainable_weight.defined() || m_trains;
      extra.push_back(b_trains || m_trains ? saved.shrunk : at::Tensor());
      extra.push_back(m_trains ? saved.directed : at::Tensor());
      extra.push_back(m_trains && !saved.directed.defined() ? outputs.back() : at::Tensor());
    }
    kept.push_back(needs_x ? x : at::Tensor());
    kept.insert(kept.end(), extra.begin(), extra.end());
    kept.insert(kept.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(std::move(kept));
    ctx->saved_data["sizes"] = x.sizes();
    for (LowRankTerm& term : node->terms) {
      for (at::Tensor* parameter : parameters(term)) {
        // Only whether it is there: autograd keeps the tensor itself, with its version, and gives it back.
        *parameter = parameter->defined() ? at::empty({0}) : at::Tensor();
      }
    }
    ctx->saved_data["node"] = c10::IValue::make_capsule(node);
    return outputs;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* ctx,
      const torch::autograd::variable_list& output_gradients) {
    refuse_second_derivative("rora::low_rank_linear");
    const auto kept = ctx->get_saved_variables();
    const auto node = c10::static_intrusive_pointer_cast<LowRankNode>(ctx->saved_data["node"].toCapsule());
    std::vector<LowRankTerm> terms = node->terms;
    const LowRankForm& form = node->form;
    const size_t count = terms.size();
    const at::Tensor x = kept[0].defined() ? kept[0].reshape({-1, kept[0].size(-1)}) : at::Tensor();
    InputGradient input(ctx->needs_input_grad(0));
    std::vector<std::array<bool, 5>> needs(count);
    bool needs_a = false;
    size_t next = 1 + 3 * count, edge = 1;
    for (size_t i = 0; i < count; ++i) {
      for (size_t slot = 0; slot < 5; ++slot) {
        at::Tensor* parameter = parameters(terms[i])[slot];
        if (parameter->defined()) {
          *parameter = kept[next++];
          needs[i][slot] = ctx->needs_input_grad(edge++);
        }
      }
      needs_a |= needs[i][2];
    }
    const bool shares = shares_shrink(terms) && (needs_a || input.wanted()) &&
        std::all_of(output_gradients.begin(), output_gradients.end(), [](const at::Tensor& dy) { return dy.defined(); });
    std::vector<LowRankGradients> found(count);
    std::vector<at::Tensor> shared;
    for (size_t i = 0; i < count; ++i) {
      if (!output_gradients[i].defined()) {
        continue;
      }
      const at::Tensor dy = output_gradients[i].reshape({-1, output_gradients[i].size(-1)});
      const at::Tensor& y = kept[3 + 3 * i];
      const SavedTerm saved{kept[1 + 3 * i], kept[2 + 3 * i]};
      found[i] = low_rank_backward(
          terms[i], form, dy, x, y.defined() ? y.reshape({-1, y.size(-1)}) : y, saved, needs[i], input,
          shares ? &shared : nullptr);
    }
    if (shares) {
      const at::Tensor dshrunk = columns_beside_each_other(shared, form);
      if (input.wanted()) {
        input.add(dshrunk, side_by_side(terms, form));
      }
      if (needs_a) {
        const at::Tensor da = low_rank_gradient_a(dshrunk, x, terms[0].a.scalar_type());
        int64_t row = 0;
        for (size_t i = 0; i < count; ++i) {
          found[i].a = da.narrow(0, row, terms[i].a.size(0));
          row += form.padded(terms[i].a.size(0));
        }
      }
    }
    const at::Tensor dx = input.sum();
    torch::autograd::variable_list gradients{dx.defined() ? dx.view(ctx->saved_data["sizes"].toIntVector()) : dx};
    for (size_t i = 0; i < count; ++i) {
      const std::array<at::Tensor, 5> all{found[i].weight, found[i].bias, found[i].a, found[i].b, found[i].magnitude};
      for (size_t slot = 0; slot < 5; ++slot) {
        const at::Tensor* parameter = parameters(terms[i])[slot];
        if (parameter->defined()) {
          gradients.push_back(all[slot].defined() ? all[slot].to(parameter->scalar_type()) : all[slot]);
        }
      }
    }
    gradients.emplace_back(); // the terms
    gradients.emplace_back(); // their form
    gradients.emplace_back(); // Ŝ
    return gradients;
  }
};

/// `low_rank_linear` with A and B in the form that a device's products take.
inline std::vector<at::Tensor> low_rank_linear_in(
    const LowRankForm& form, const at::Tensor& x, std::vector<LowRankTerm> terms, const at::Tensor& shrunk = {}) {
  if (shrunk.defined()) {
    TORCH_CHECK_VALUE(takes_shrunk(terms), "only terms that share it, without dropout, take an Ŝ formed before");
    int64_t rank = 0;
    for (const LowRankTerm& term : terms) {
      rank += form.padded(term.a.size(0));
    }
    const std::array<int64_t, 2> sizes{x.numel() / std::max<int64_t>(x.size(-1), 1), rank};
    TORCH_CHECK_VALUE(
        shrunk.sizes() == at::IntArrayRef(sizes) && shrunk.scalar_type() == x.scalar_type() && !shrunk.requires_grad(),
        "an Ŝ of ", at::IntArrayRef(sizes), " in ", x.scalar_type(), " that needs no gradient is not ", shrunk.sizes(),
        " in ", shrunk.scalar_type(), shrunk.requires_grad() ? " that does" : "");
  }
  std::vector<at::Tensor> tensors;
  for (LowRankTerm& term : terms) {
    for (at::Tensor* parameter : LowRankLinearFunction::parameters(term)) {
      if (parameter->defined()) {
        tensors.push_back(*parameter);
      }
    }
  }
  const auto given = shrunk.defined() ? std::optional<at::Tensor>(shrunk) : std::nullopt;
  return LowRankLinearFunction::apply(x, at::TensorList(tensors), terms, form, given);
}

} // namespace detail

/// Applies every term to the same x `[..., in]`, in x's dtype; the i-th result is `[..., out_i]`. Gradients come back in
/// each tensor's own dtype.
///
/// `shrunk` `[tokens, Σ rank]` is s·x·Aᵀ of all terms side by side, as `detail::side_by_side` has their A, where the caller
/// has it already, as rounded as x. It is no input of the graph: x's and A's gradients are the same with it as without.
/// Throws where the terms do not share one Ŝ of x itself, or where it has another size or dtype or needs a gradient.
inline std::vector<at::Tensor> low_rank_linear(
    const at::Tensor& x, std::vector<LowRankTerm> terms, const at::Tensor& shrunk = {}) {
  return detail::low_rank_linear_in(detail::LowRankForm::of_device(x), x, std::move(terms), shrunk);
}

} // namespace rora::ops
