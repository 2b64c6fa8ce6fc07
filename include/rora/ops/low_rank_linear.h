#pragma once

#include <rora/ops/dropout.h>
#include <rora/ops/linear_weight.h>

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
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
  /// n `[out]`: 0 for a row whose norm is 0, as PEFT's division would make it NaN.
  at::Tensor direction_scale(at::ScalarType dtype) const {
    return at::where(norm > 0, magnitude.detach().to(norm.scalar_type()) / norm, 0.0).to(dtype);
  }
};

namespace detail {

/// What a term's forward leaves for its backward.
struct SavedTerm {
  at::Tensor shrunk; ///< Ŝ = s·drop(x)·Aᵀ `[tokens, rank]`: with s folded in once, dB = dzᵀ·Ŝ
  at::Tensor directed; ///< what n multiplies, where y cannot give it back
};

/// y `[tokens, out]` of a term from x `[tokens, in]`.
inline at::Tensor low_rank_forward(const LowRankTerm& term, const at::Tensor& x, SavedTerm& saved) {
  const auto dtype = x.scalar_type();
  at::Tensor y = term.weight->forward(x);
  if (!term.low_rank()) {
    return term.bias.defined() ? y.add_(term.bias.to(dtype)) : y;
  }
  const at::Tensor dropped = term.dropout.apply(x);
  saved.shrunk = dropped.mm(term.a.to(dtype).t()).mul_(term.scale);
  if (!term.dora()) {
    y.addmm_(saved.shrunk, term.b.to(dtype).t());
  } else {
    const at::Tensor n = term.direction_scale(dtype);
    if (term.dropout.active() && term.dora_dropout == DoraDropout::kInput) {
      const at::Tensor base = term.weight->forward(dropped);
      saved.directed = base.addmm(saved.shrunk, term.b.to(dtype).t());
      y = y.sub_(base).add_(saved.directed * n);
    } else {
      y.addmm_(saved.shrunk, term.b.to(dtype).t()).mul_(n);
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
inline at::Tensor magnitude_gradient(
    const LowRankTerm& term,
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& y,
    const SavedTerm& saved) {
  const auto wide = term.norm.scalar_type();
  if (!saved.directed.defined() && !(term.magnitude == 0).any().item<bool>()) {
    const at::Tensor scaled = term.bias.defined() ? y - term.bias.to(y.scalar_type()) : y;
    return (dy * scaled).sum(0, /*keepdim=*/false, wide) / term.magnitude;
  }
  const at::Tensor z = saved.directed.defined()
      ? saved.directed
      : term.weight->forward(x).addmm_(saved.shrunk, term.b.to(x.scalar_type()).t());
  return at::where(term.norm > 0, (dy * z).sum(0, /*keepdim=*/false, wide) / term.norm, 0.0);
}

/// Adds a term's share to `dx` (undefined at first, and left so where `needs_dx` is false) and returns its gradients.
/// `needs` says, in the order of `LowRankGradients`, which are asked for.
inline LowRankGradients low_rank_backward(
    const LowRankTerm& term,
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& y,
    const SavedTerm& saved,
    const std::array<bool, 5>& needs,
    bool needs_dx,
    at::Tensor& dx) {
  const auto [needs_weight, needs_bias, needs_a, needs_b, needs_magnitude] = needs;
  const auto dtype = dy.scalar_type();
  LowRankGradients gradients;
  const auto accumulate = [&](const at::Tensor& gradient) {
    if (dx.defined()) {
      term.weight->accumulate_backward(dx, gradient);
    } else {
      dx = term.weight->backward(gradient);
    }
  };
  if (needs_bias) {
    gradients.bias = dy.sum(0);
  }
  const at::Tensor dz = term.dora() ? dy * term.direction_scale(dtype) : dy;
  const bool drops_input = term.dora() && term.dropout.active() && term.dora_dropout == DoraDropout::kInput;
  // Of dy's rows, as x is not kept where nothing but the gradient to x needs the mask.
  const at::Tensor mask = term.low_rank() && term.dropout.active()
      ? term.dropout.mask({dy.size(0), term.weight->in_features()}, dy.options())
      : at::Tensor();
  if (needs_weight) {
    gradients.weight = drops_input ? dy.t().mm(x).add_((dz - dy).t().mm(x * mask)) : dz.t().mm(x);
  }
  if (needs_dx) {
    accumulate(drops_input ? dy : dz);
  }
  if (!term.low_rank()) {
    return gradients;
  }
  if (needs_magnitude) {
    gradients.magnitude = magnitude_gradient(term, dy, x, y, saved);
  }
  if (needs_b) {
    gradients.b = dz.t().mm(saved.shrunk);
  }
  if (needs_a || needs_dx) {
    const at::Tensor shrunk_gradient = dz.mm(term.b.to(dtype)).mul_(term.scale);
    if (needs_a) {
      gradients.a = shrunk_gradient.t().mm(mask.defined() ? x * mask : x);
    }
    if (needs_dx && !mask.defined()) {
      dx.addmm_(shrunk_gradient, term.a.to(dtype));
    } else if (needs_dx) {
      at::Tensor dropped_gradient = shrunk_gradient.mm(term.a.to(dtype));
      if (drops_input) {
        term.weight->accumulate_backward(dropped_gradient, dz - dy);
      }
      dx.add_(dropped_gradient.mul_(mask));
    }
  }
  return gradients;
}

/// The terms of a graph node, without the tensors that autograd itself keeps.
struct LowRankNode : torch::CustomClassHolder {
  std::vector<LowRankTerm> terms;
};

/// All projections of one input as one node: dx is accumulated in place over the group.
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
      const std::vector<LowRankTerm>& terms) {
    ctx->set_materialize_grads(false);
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    auto node = c10::make_intrusive<LowRankNode>();
    node->terms = terms;
    torch::autograd::variable_list outputs, kept;
    bool needs_x = false;
    std::vector<at::Tensor> extra;
    for (LowRankTerm& term : node->terms) {
      SavedTerm saved;
      at::Tensor y = low_rank_forward(term, rows, saved);
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
    const auto kept = ctx->get_saved_variables();
    const auto node = c10::static_intrusive_pointer_cast<LowRankNode>(ctx->saved_data["node"].toCapsule());
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    const size_t count = node->terms.size();
    size_t next = 1 + 3 * count;
    const at::Tensor x = kept[0].defined() ? kept[0].reshape({-1, kept[0].size(-1)}) : at::Tensor();
    const bool needs_dx = ctx->needs_input_grad(0);
    at::Tensor dx;
    torch::autograd::variable_list gradients;
    size_t edge = 1;
    for (size_t i = 0; i < count; ++i) {
      LowRankTerm term = node->terms[i];
      std::array<bool, 5> needs{};
      size_t slot = 0;
      for (at::Tensor* parameter : parameters(term)) {
        if (parameter->defined()) {
          *parameter = kept[next++];
          needs[slot] = ctx->needs_input_grad(edge++);
        }
        ++slot;
      }
      if (!output_gradients[i].defined()) {
        gradients.insert(gradients.end(), defined_count(term), at::Tensor());
        continue;
      }
      const at::Tensor dy = output_gradients[i].reshape({-1, output_gradients[i].size(-1)});
      const at::Tensor& y = kept[3 + 3 * i];
      const SavedTerm saved{kept[1 + 3 * i], kept[2 + 3 * i]};
      const LowRankGradients found = low_rank_backward(
          term, dy, x, y.defined() ? y.reshape({-1, y.size(-1)}) : y, saved, needs, needs_dx, dx);
      const std::array<at::Tensor, 5> all{found.weight, found.bias, found.a, found.b, found.magnitude};
      slot = 0;
      for (at::Tensor* parameter : parameters(term)) {
        if (parameter->defined()) {
          gradients.push_back(all[slot].defined() ? all[slot].to(parameter->scalar_type()) : all[slot]);
        }
        ++slot;
      }
    }
    gradients.insert(gradients.begin(), dx.defined() ? dx.view(sizes) : dx);
    gradients.emplace_back(); // the terms
    return gradients;
  }

 private:
  static size_t defined_count(LowRankTerm& term) {
    size_t count = 0;
    for (at::Tensor* parameter : parameters(term)) {
      count += parameter->defined() ? 1 : 0;
    }
    return count;
  }
};

} // namespace detail

/// Applies every term to the same x `[..., in]`, in x's dtype; the i-th result is `[..., out_i]`. Gradients come back in
/// each tensor's own dtype.
inline std::vector<at::Tensor> low_rank_linear(const at::Tensor& x, std::vector<LowRankTerm> terms) {
  std::vector<at::Tensor> tensors;
  for (LowRankTerm& term : terms) {
    for (at::Tensor* parameter : detail::LowRankLinearFunction::parameters(term)) {
      if (parameter->defined()) {
        tensors.push_back(*parameter);
      }
    }
  }
  return detail::LowRankLinearFunction::apply(x, at::TensorList(tensors), terms);
}

/// ‖W + s·B·A‖ of each row `[out]`, in fp32 (fp64 where B is): the exact expansion
/// n² = ‖W‖² + 2s·rowsum(B⊙(W·Aᵀ)) + s²·rowsum((B·A·Aᵀ)⊙B), which forms neither B·A nor a second W.
/// `weight_norm_squared` is `row_norm_squared(W)`.
inline at::Tensor dora_norm(
    const LinearWeight& weight,
    const at::Tensor& weight_norm_squared,
    const at::Tensor& a,
    const at::Tensor& b,
    double scale) {
  at::NoGradGuard no_grad;
  const auto wide = weight_norm_squared.scalar_type();
  const at::Tensor wide_a = a.to(wide);
  const at::Tensor wide_b = b.to(wide);
  const at::Tensor product = weight.forward_wide(wide_a).t(); // W·Aᵀ
  const at::Tensor gram = wide_a.mm(wide_a.t());
  const at::Tensor squared = weight_norm_squared + 2.0 * scale * (wide_b * product).sum(1) +
      scale * scale * (wide_b.mm(gram) * wide_b).sum(1);
  return squared.clamp_min(0.0).sqrt();
}

/// ‖W‖² of each row `[out]`, in fp32 (fp64 where W is).
inline at::Tensor row_norm_squared(const LinearWeight& weight) {
  at::NoGradGuard no_grad;
  const at::Tensor dense = weight.dense();
  const auto wide = dense.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return dense.to(wide).square().sum(1);
}

} // namespace rora::ops
