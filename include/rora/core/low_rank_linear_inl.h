#pragma once

#include <rora/core/joined_gradients.h>
#include <rora/core/low_rank_gradients.h>
#include <rora/core/low_rank_linear.h>
#include <rora/core/operation.h>
#include <rora/core/values_of_weight.h>

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace rora::ops {

/// n of `LowRankTerm`.
RORA_INLINE at::Tensor LowRankTerm::direction_scale() const {
  return at::where(norm > 0, magnitude.detach().to(norm.scalar_type()) / norm, 0.0);
}

namespace detail {

/// Whether the terms' A may stand side by side, as one product with x: each is low-rank, of the same scale and dtype,
/// and reads x itself.
inline bool shares_shrink(const std::vector<LowRankTerm>& terms) {
  for (const LowRankTerm& term : terms) {
    if (!term.low_rank() || term.dropout.active() || term.scale != terms[0].scale ||
        term.a.scalar_type() != terms[0].a.scalar_type()) {
      return false;
    }
  }
  return terms.size() > 1;
}

RORA_INLINE bool takes_shrunk(const std::vector<LowRankTerm>& terms) {
  return shares_shrink(terms) || (terms.size() == 1 && terms[0].low_rank() && !terms[0].dropout.active());
}

RORA_INLINE at::Tensor side_by_side(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  return vstack(matrices_a(terms), form);
}

inline std::vector<int64_t> ranks_of(const std::vector<LowRankTerm>& terms) {
  std::vector<int64_t> ranks;
  for (const LowRankTerm& term : terms) {
    ranks.push_back(term.a.size(0));
  }
  return ranks;
}

/// The buffers that wait for the gradients of all terms' A, as the one matrix that these are; undefined where they are
/// not.
inline at::Tensor take_buffers_of_a(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  std::vector<at::Tensor> all;
  bool whole = true;
  for (const LowRankTerm& term : terms) {
    all.push_back(take_buffer(term.a_gradient, term.a));
    whole = whole && all.back().defined() && form.padded(term.a.size(0)) == term.a.size(0);
  }
  return whole && are_vstacked(all) ? vstack(all, LowRankForm{}) : at::Tensor();
}

/// Where the B of the term number `place` is to be copied so that it stands beside W; undefined where that is nowhere,
/// or another term of the same W has it.
inline at::Tensor room_for_b(const std::vector<LowRankTerm>& terms, size_t place, const LowRankForm& form) {
  const LowRankTerm& term = terms[place];
  const auto has_the_weight = [&](const LowRankTerm& other) { return other.weight == term.weight; };
  const bool first = std::none_of(terms.begin(), terms.begin() + static_cast<int64_t>(place), has_the_weight);
  const bool copies = form.dtype && *form.dtype == term.weight->dtype();
  return first && copies ? term.weight->beside(form.padded(term.b.size(1))) : at::Tensor();
}

/// Of the terms' outputs, and of dS.
inline std::vector<int64_t> widths_of_gradients(const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  std::vector<int64_t> widths;
  for (const LowRankTerm& term : terms) {
    widths.push_back(term.weight->out_features());
  }
  widths.push_back(sum_of_padded_ranks(terms, form));
  return widths;
}

RORA_INLINE c10::intrusive_ptr<GradientRows> gradient_rows(
    const std::vector<LowRankTerm>& terms, const LowRankForm& form) {
  if (!takes_shrunk(terms) || !room_for_a(terms, form).defined() || !lie_below_each_other(terms)) {
    return {};
  }
  std::vector<int64_t> widths = widths_of_gradients(terms, form);
  const bool aligned =
      std::all_of(widths.begin(), widths.end(), [&](int64_t width) { return width % form.rank_multiple == 0; });
  return aligned ? c10::make_intrusive<GradientRows>(std::move(widths)) : c10::intrusive_ptr<GradientRows>();
}

/// The terms with B as products take it.
inline std::vector<LowRankTerm> with_b_for_products(std::vector<LowRankTerm> terms, const LowRankForm& form) {
  std::vector<at::Tensor> all, rooms;
  for (size_t i = 0; i < terms.size(); ++i) {
    if (terms[i].low_rank()) {
      all.push_back(terms[i].b);
      rooms.push_back(room_for_b(terms, i, form));
    }
  }
  auto next = (all = padded_columns(std::move(all), form, rooms)).begin();
  for (LowRankTerm& term : terms) {
    if (term.low_rank()) {
      term.b = *next++;
    }
  }
  return terms;
}

/// What a graph node holds of its terms that autograd need not watch.
struct LowRankNode : torch::CustomClassHolder {
  LowRankNode(
      std::vector<LowRankTerm> all, const LowRankForm& form, std::vector<int64_t> sizes,
      c10::intrusive_ptr<GradientRows> rows)
      : terms(std::move(all)), form(form), sizes(std::move(sizes)), rows(std::move(rows)) {
    for (LowRankTerm& term : terms) {
      values.emplace_back(*term.weight);
      for (at::Tensor* parameter : parameters_of(term)) { // autograd keeps those itself, and gives them back
        parameter->reset();
      }
    }
  }

  /// The terms with the weights that the forward pass has read.
  std::vector<LowRankTerm> terms_of_forward() const {
    std::vector<LowRankTerm> all = terms;
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].weight = values[i].of_forward(all[i].weight);
    }
    return all;
  }

  std::vector<LowRankTerm> terms; ///< without their parameters
  std::vector<ValuesOfWeight> values;
  LowRankForm form;
  std::vector<int64_t> sizes; ///< x's
  c10::intrusive_ptr<GradientRows> rows; ///< for the outputs' gradients; may be null
};

/// All that a node's backward reads and autograd keeps.
struct SavedNode {
  at::Tensor x; ///< `[..., in]`, where a gradient needs it
  std::vector<SavedTerm> terms;

  void save(torch::autograd::AutogradContext* ctx) {
    torch::autograd::variable_list tensors{x};
    for (SavedTerm& term : terms) {
      for (const at::Tensor* each : term.all()) {
        tensors.push_back(*each);
      }
    }
    ctx->save_for_backward(std::move(tensors));
  }

  static SavedNode restore(torch::autograd::AutogradContext* ctx, size_t count) {
    const torch::autograd::variable_list tensors = ctx->get_saved_variables();
    auto next = tensors.begin();
    SavedNode saved{*next++, std::vector<SavedTerm>(count)};
    for (SavedTerm& term : saved.terms) {
      for (at::Tensor* each : term.all()) {
        *each = *next++;
      }
    }
    return saved;
  }
};

/// All projections of one input as one node: x is read once for all low-rank branches, and dx is one sum.
class LowRankLinearFunction : public torch::autograd::Function<LowRankLinearFunction> {
 public:
  /// `parameters` are the defined ones of all terms, in order: autograd finds its inputs there, and takes no others.
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* ctx, const at::Tensor& x, at::TensorList parameters,
      const std::vector<LowRankTerm>& terms, const LowRankForm& form, const std::optional<at::Tensor>& shrunk,
      const c10::intrusive_ptr<GradientRows>& gradient_rows) {
    ctx->set_materialize_grads(false);
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    std::vector<LowRankTerm> own = with_b_for_products(terms, form);
    at::Tensor shared = shrunk.value_or(at::Tensor());
    if (!shared.defined() && shares_shrink(terms)) {
      shared = low_rank_shrink(rows, side_by_side(terms, form), terms[0].scale);
    }
    torch::autograd::variable_list outputs;
    SavedNode saved{{}, std::vector<SavedTerm>(terms.size())};
    int64_t column = 0;
    for (size_t i = 0; i < terms.size(); ++i) {
      SavedTerm& kept = saved.terms[i];
      if (shared.defined()) {
        const int64_t width = form.padded(terms[i].a.size(0));
        kept.shrunk = shared.narrow(1, column, width);
        column += width;
      } else if (terms[i].low_rank()) {
        own[i].a = vstack({terms[i].a}, form);
      }
      const at::Tensor y = low_rank_forward(own[i], rows, kept);
      auto shape = x.sizes().vec();
      shape.back() = y.size(1);
      outputs.push_back(at::_unsafe_view(y, shape)); // as a view it could not be written to in place
      keep_what_is_read(terms[i], outputs.back(), kept);
      if (reads_x(terms[i])) {
        saved.x = x;
      }
    }
    let_go_of_x(x, saved);
    saved.save(ctx);
    ctx->saved_data["node"] =
        c10::IValue::make_capsule(c10::make_intrusive<LowRankNode>(terms, form, x.sizes().vec(), gradient_rows));
    return outputs;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& output_gradients) {
    refuse_second_derivative("rora::low_rank_linear");
    const auto node = c10::static_intrusive_pointer_cast<LowRankNode>(ctx->saved_data["node"].toCapsule());
    const LowRankForm& form = node->form;
    std::vector<LowRankTerm> terms = node->terms_of_forward();
    for (const LowRankTerm& term : terms) {
      if (term.backward_passes != nullptr) {
        ++*term.backward_passes;
      }
    }
    SavedNode saved = SavedNode::restore(ctx, terms.size());
    const at::Tensor x = saved.x.defined() ? saved.x.reshape({-1, saved.x.size(-1)}) : at::Tensor();
    InputGradient input(ctx->needs_input_grad(0));
    const std::vector<ByParameter<bool>> needs = put_back_parameters(ctx, saved, terms);
    const bool needs_a = std::any_of(needs.begin(), needs.end(), [](const auto& each) { return each.a; });
    std::vector<at::Tensor> dys;
    for (const at::Tensor& each : output_gradients) {
      dys.push_back(each.defined() ? each.reshape({-1, each.size(-1)}) : each);
    }
    const bool all_there = std::all_of(dys.begin(), dys.end(), [](const at::Tensor& dy) { return dy.defined(); });
    const auto joined = all_there && input.wanted() ? JoinedGradients::of(node->rows, terms, form, dys) : std::nullopt;
    if (!joined && node->rows != nullptr) {
      node->rows->take(); // whoever has a gradient there keeps its memory alive
    }
    const bool shares = joined || (shares_shrink(terms) && (needs_a || input.wanted()) && all_there);
    std::vector<at::Tensor> shared;
    if (joined) {
      shared = joined->parts_of_shrunk(terms, form);
    } else if (shares) {
      shared = empty_hstacked(dys[0].size(0), ranks_of(terms), form, dys[0].options());
    }
    std::vector<ByParameter<at::Tensor>> found(terms.size());
    for (size_t i = 0; i < terms.size(); ++i) {
      if (dys[i].defined()) {
        found[i] = low_rank_backward(
            terms[i], form, dys[i], x, saved.terms[i], needs[i], input, shares ? &shared[i] : nullptr,
            joined ? joined->places[i] : at::Tensor());
      }
    }
    if (shares) {
      const at::Tensor dshrunk = joined ? joined->shrunk() : hstack(shared, form);
      if (input.wanted()) {
        input.add(dshrunk, joined ? vstack(matrices_a(terms), form, joined->room) : side_by_side(terms, form));
      }
      if (needs_a) {
        find_gradients_of_a(terms, form, dshrunk, x, found);
      }
    }
    const at::Tensor dx = input.sum();
    torch::autograd::variable_list gradients{dx.defined() ? dx.view(node->sizes) : dx};
    for (size_t i = 0; i < terms.size(); ++i) {
      const auto parameters = parameters_of(terms[i]);
      const auto of_term = found[i].all();
      for (size_t k = 0; k < parameters.size(); ++k) {
        if (parameters[k]->defined()) {
          gradients.push_back(of_term[k]->defined() ? of_term[k]->to(parameters[k]->scalar_type()) : at::Tensor());
        }
      }
    }
    gradients.emplace_back(); // the terms
    gradients.emplace_back(); // their form
    gradients.emplace_back(); // Ŝ
    gradients.emplace_back(); // the rows
    return gradients;
  }

 private:
  static bool trains(const at::Tensor& parameter) {
    return parameter.defined() && parameter.requires_grad();
  }

  /// Whether a gradient of the term's parameters is made from x.
  static bool reads_x(const LowRankTerm& term) {
    return trains(term.a) || trains(term.magnitude) || term.trainable_weight.defined();
  }

  /// Ŝ by itself where it lies in one block of memory with an x that is not kept.
  static void let_go_of_x(const at::Tensor& x, SavedNode& saved) {
    for (SavedTerm& term : saved.terms) {
      if (!saved.x.defined() && term.shrunk.defined() && term.shrunk.is_alias_of(x)) {
        term.shrunk = term.shrunk.clone(at::MemoryFormat::Contiguous);
      }
    }
  }

  /// Leaves in `saved` what the term's backward reads, of what the forward has put there and the output y `[..., out]`.
  static void keep_what_is_read(const LowRankTerm& term, const at::Tensor& y, SavedTerm& saved) {
    const bool magnitude_trains = trains(term.magnitude);
    saved.shrunk = trains(term.b) || magnitude_trains ? saved.shrunk.narrow(1, 0, term.a.size(0)) : at::Tensor();
    if (!magnitude_trains) {
      saved.directed.reset();
    } else if (!saved.directed.defined()) {
      saved.output = y;
    }
    saved.parameters = {
        .weight = term.trainable_weight, .bias = term.bias, .a = term.a, .b = term.b, .magnitude = term.magnitude};
  }

  /// Gives the terms their parameters again, and tells which of these need a gradient.
  static std::vector<ByParameter<bool>> put_back_parameters(
      torch::autograd::AutogradContext* ctx, SavedNode& saved, std::vector<LowRankTerm>& terms) {
    std::vector<ByParameter<bool>> needs(terms.size());
    size_t edge = 1; // after x
    for (size_t i = 0; i < terms.size(); ++i) {
      const auto kept = saved.terms[i].parameters.all();
      const auto parameters = parameters_of(terms[i]);
      const auto needed = needs[i].all();
      for (size_t k = 0; k < parameters.size(); ++k) {
        *parameters[k] = *kept[k];
        *needed[k] = kept[k]->defined() && ctx->needs_input_grad(edge++);
      }
    }
    return needs;
  }

  /// dA of each term from all terms' dS `[tokens, Σ padded rank]`.
  static void find_gradients_of_a(
      const std::vector<LowRankTerm>& terms, const LowRankForm& form, const at::Tensor& dshrunk, const at::Tensor& x,
      std::vector<ByParameter<at::Tensor>>& found) {
    const at::Tensor da = low_rank_gradient_a(dshrunk, x, terms[0].a.scalar_type(), {}, take_buffers_of_a(terms, form));
    int64_t row = 0;
    for (size_t i = 0; i < terms.size(); ++i) {
      found[i].a = da.narrow(0, row, terms[i].a.size(0));
      row += form.padded(terms[i].a.size(0));
    }
  }
};

RORA_INLINE std::vector<at::Tensor> low_rank_linear_in(
    const LowRankForm& form, const at::Tensor& x, std::vector<LowRankTerm> terms, const at::Tensor& shrunk,
    const c10::intrusive_ptr<GradientRows>& rows) {
  if (shrunk.defined()) {
    TORCH_CHECK_VALUE(takes_shrunk(terms), "only terms that share it, without dropout, take an Ŝ formed before");
    const std::array<int64_t, 2> sizes{x.numel() / std::max<int64_t>(x.size(-1), 1), sum_of_padded_ranks(terms, form)};
    TORCH_CHECK_VALUE(
        shrunk.sizes() == at::IntArrayRef(sizes) && shrunk.scalar_type() == x.scalar_type() && !shrunk.requires_grad(),
        "an Ŝ of ", at::IntArrayRef(sizes), " in ", x.scalar_type(), " that needs no gradient is not ", shrunk.sizes(),
        " in ", shrunk.scalar_type(), shrunk.requires_grad() ? " that does" : "");
  }
  TORCH_CHECK_VALUE(
      rows == nullptr || (takes_shrunk(terms) && rows->widths() == widths_of_gradients(terms, form)),
      "the rows for the outputs' gradients were made for other terms");
  std::vector<at::Tensor> parameters;
  for (LowRankTerm& term : terms) {
    for (const at::Tensor* parameter : parameters_of(term)) {
      if (parameter->defined()) {
        parameters.push_back(*parameter);
      }
    }
  }
  const auto given = shrunk.defined() ? std::optional<at::Tensor>(shrunk) : std::nullopt;
  return LowRankLinearFunction::apply(x, at::TensorList(parameters), terms, form, given, rows);
}

} // namespace detail

RORA_INLINE std::vector<at::Tensor> low_rank_linear(
    const at::Tensor& x, std::vector<LowRankTerm> terms, const at::Tensor& shrunk,
    const c10::intrusive_ptr<GradientRows>& rows) {
  return detail::low_rank_linear_in(detail::LowRankForm::of_device(x), x, std::move(terms), shrunk, rows);
}

} // namespace rora::ops
