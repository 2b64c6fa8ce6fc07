#pragma once

#include <rora/core/gradient_buffer.h>
#include <rora/core/low_rank_matrices.h>
#include <rora/core/low_rank_products.h>
#include <rora/core/low_rank_term.h>

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

namespace rora::ops {
namespace detail {

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
  return vstack(all, form);
}

inline std::vector<int64_t> ranks_of(const std::vector<LowRankTerm>& terms) {
  std::vector<int64_t> ranks;
  for (const LowRankTerm& term : terms) {
    ranks.push_back(term.a.size(0));
  }
  return ranks;
}

/// The buffers that wait for the gradients of all terms' A, as the one matrix that these are; undefined where they are not.
inline at::Tensor take_buffers_of_a(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  std::vector<at::Tensor> all;
  bool whole = true;
  for (const LowRankTerm& term : terms) {
    all.push_back(take_buffer(term.a_gradient, term.a));
    whole = whole && all.back().defined() && form.padded(term.a.size(0)) == term.a.size(0);
  }
  return whole && are_vstacked(all) ? vstack(all, LowRankForm{}) : at::Tensor();
}

/// The terms with B as products take it.
inline std::vector<LowRankTerm> with_b_for_products(std::vector<LowRankTerm> terms, const LowRankForm& form) {
  std::vector<at::Tensor> all;
  for (const LowRankTerm& term : terms) {
    if (term.low_rank()) {
      all.push_back(term.b);
    }
  }
  auto next = (all = padded_columns(std::move(all), form)).begin();
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
        own[i].a = vstack({term.a}, form);
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
    if (shares) {
      const at::Tensor& dy = output_gradients[0];
      shared = empty_hstacked(dy.numel() / dy.size(-1), ranks_of(terms), form, dy.options());
    }
    for (size_t i = 0; i < count; ++i) {
      if (!output_gradients[i].defined()) {
        continue;
      }
      const at::Tensor dy = output_gradients[i].reshape({-1, output_gradients[i].size(-1)});
      const at::Tensor& y = kept[3 + 3 * i];
      const SavedTerm saved{kept[1 + 3 * i], kept[2 + 3 * i]};
      found[i] = low_rank_backward(
          terms[i], form, dy, x, y.defined() ? y.reshape({-1, y.size(-1)}) : y, saved, needs[i], input,
          shares ? &shared[i] : nullptr);
    }
    if (shares) {
      const at::Tensor dshrunk = hstack(shared, form);
      if (input.wanted()) {
        input.add(dshrunk, side_by_side(terms, form));
      }
      if (needs_a) {
        const at::Tensor da =
            low_rank_gradient_a(dshrunk, x, terms[0].a.scalar_type(), {}, take_buffers_of_a(terms, form));
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
