#include <rora/model/decoder_layer.h>

#include "recomputation.h"

#include <rora/model/projection_group.h>
#include <rora/ops/attention.h>
#include <rora/ops/rotary_embedding.h>
#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>

#include <cmath>
#include <initializer_list>
#include <tuple>
#include <vector>

namespace rora {
namespace {

/// The sequences of rows with `prefix` keys in front of them, which the row's tokens all see.
ops::Sequences behind_prefix(const ops::Sequences& sequences, int64_t prefix) {
  if (prefix == 0 || !sequences.ids.defined()) {
    return sequences;
  }
  const at::Tensor ones = at::ones({sequences.ids.size(0), prefix}, sequences.ids.options());
  return {at::cat({ones, sequences.ids}, 1)};
}

/// What the projections give of the stream, whose sum becomes its states.
Projected project_stream(
    RMSNormImpl* norm, ResidualStream& stream, std::initializer_list<ProjectionImpl*> projections, bool forms_again) {
  if (norm != nullptr) {
    return project_norm(*norm, stream, projections, forms_again);
  }
  stream = {stream.sum()};
  return project_together(stream.states, projections);
}

at::Tensor gated(
    Activation activation, const at::Tensor& gate, const at::Tensor& up,
    const c10::intrusive_ptr<ops::GradientRows>& gradient_rows = {}) {
  return activation == Activation::kSiLU ? ops::swiglu(gate, up, gradient_rows) : at::gelu(gate, "tanh") * up;
}

/// What a block's last projection gives.
StreamChange change_by(ProjectionImpl& projection, const at::Tensor& x) {
  const Projected projected = project_together(x, {&projection});
  return {projected.outputs[0], projected.place(0)};
}

} // namespace

AttentionImpl::AttentionImpl(const DecoderOptions& options, int64_t layer)
    : layer_(layer),
      head_dim_(options.resolved_head_dim()),
      window_(options.window(layer)),
      rotates_(options.rotates(layer)),
      norms_all_heads_(options.qk_norm_of_all_heads()),
      query_scale_(
          options.attention_multiplier() > 0.0
              ? options.attention_multiplier() * std::sqrt(static_cast<double>(head_dim_))
              : 1.0) {
  const LayerShape shape = options.layer_shape(layer);
  const int64_t width = shape.num_attention_heads * head_dim_;
  const int64_t kv_width = shape.num_key_value_heads * head_dim_;
  const ProjectionBiases& bias = options.bias();
  q_proj = register_module("q_proj", Projection(options.hidden_size(), width, bias.q));
  k_proj = register_module("k_proj", Projection(options.hidden_size(), kv_width, bias.k));
  v_proj = register_module("v_proj", Projection(options.hidden_size(), kv_width, bias.v));
  o_proj = register_module("o_proj", Projection(width, options.hidden_size(), bias.o));
  if (options.qk_norm()) {
    const auto norm_of = [&](int64_t all_heads) {
      return RMSNorm(norms_all_heads_ ? all_heads : head_dim_, options.rms_norm_eps(), options.norm_adds_one());
    };
    q_norm = register_module("q_norm", norm_of(width));
    k_norm = register_module("k_norm", norm_of(kv_width));
  }
}

/// `[batch, seq, heads·head_dim]` → `[batch, heads, seq, head_dim]`, normed and turned.
at::Tensor AttentionImpl::turned(
    const at::Tensor& flat, RMSNorm& norm, const LayerContext& context, const ops::GradientPlace& place) const {
  const auto by_head = [&](const at::Tensor& x) { return x.view({x.size(0), x.size(1), -1, head_dim_}); };
  at::Tensor heads = by_head(norms_all_heads_ ? norm->forward(flat) : flat);
  if (!norm.is_empty() && !norms_all_heads_) {
    heads = norm->forward(heads);
  }
  heads = heads.transpose(1, 2);
  const RotaryTables& rotary = window_ > 0 ? context.sliding_rotary : context.rotary;
  const bool takes_heads_as_they_are = norm.is_empty();
  return rotates_
      ? ops::rotary_embedding(heads, rotary.cos, rotary.sin, takes_heads_as_they_are ? place : ops::GradientPlace())
      : heads;
}

/// Puts the adapter's keys and values in front of the rows' own, or of those in an empty cache, and says how many there
/// are.
int64_t AttentionImpl::put_prefix(at::Tensor& k, at::Tensor& v, const LayerContext& context) {
  AttentionAdapter* adapter = active_adapter();
  const auto layer = static_cast<size_t>(layer_);
  if (context.cache != nullptr && context.cache->size() > 0) {
    TORCH_CHECK_VALUE(
        (adapter != nullptr) == (context.cache->prefix(layer) > 0),
        "the key-value cache was begun with another adapter in the attention's slot");
    return context.cache->prefix(layer);
  }
  if (adapter == nullptr) {
    return 0;
  }
  const auto [keys, values] = adapter->prefix(*this);
  const std::vector<int64_t> expected{keys.size(0), k.size(1), head_dim_};
  TORCH_CHECK_VALUE(
      keys.sizes() == expected && values.sizes() == expected,
      "an attention's prefix is [prefix, kv_heads, head_dim], "
      "here [prefix, ",
      k.size(1), ", ", head_dim_, "], not ", keys.sizes(), " and ", values.sizes());
  const auto of_rows = [&](const at::Tensor& prefix) {
    return prefix.to(k.scalar_type()).transpose(0, 1).unsqueeze(0).expand({k.size(0), -1, -1, -1});
  };
  if (context.cache != nullptr) {
    context.cache->put_prefix(layer, of_rows(keys), of_rows(values));
  } else {
    k = at::cat({of_rows(keys), k}, 2);
    v = at::cat({of_rows(values), v}, 2);
  }
  return keys.size(0);
}

StreamChange AttentionImpl::forward(RMSNormImpl* norm, ResidualStream& stream, const LayerContext& context) {
  const int64_t batch = stream.states.size(0);
  const int64_t seq = stream.states.size(1);
  const Projected projected =
      project_stream(norm, stream, {q_proj.get(), k_proj.get(), v_proj.get()}, context.forms_again);
  at::Tensor q = turned(projected.outputs[0], q_norm, context, projected.place(0));
  at::Tensor k = turned(projected.outputs[1], k_norm, context, projected.place(1));
  at::Tensor v = projected.outputs[2].view({batch, seq, -1, head_dim_}).transpose(1, 2);
  if (query_scale_ != 1.0) {
    q = q * query_scale_;
  }
  const int64_t prefix = put_prefix(k, v, context);
  if (context.cache != nullptr) {
    std::tie(k, v) = context.cache->append(static_cast<size_t>(layer_), k, v);
  }
  const ops::Sequences sequences = behind_prefix(context.sequences, prefix);
  const bool as_tokens = prefix > 0 && active_adapter()->takes_positions();
  const at::Tensor mixed = ops::attention_within(sequences, q, k, v, {window_, as_tokens ? 0 : prefix});
  return change_by(*o_proj, context.of_chosen(mixed.transpose(1, 2).reshape({batch, seq, -1})));
}

MLPImpl::MLPImpl(const DecoderOptions& options, int64_t layer) : activation_(options.hidden_act()) {
  const int64_t hidden = options.hidden_size();
  const int64_t inner = options.layer_shape(layer).intermediate_size;
  const ProjectionBiases& bias = options.bias();
  gate_proj = register_module("gate_proj", Projection(hidden, inner, bias.gate));
  up_proj = register_module("up_proj", Projection(hidden, inner, bias.up));
  down_proj = register_module("down_proj", Projection(inner, hidden, bias.down));
}

StreamChange MLPImpl::forward(RMSNormImpl* norm, ResidualStream& stream, bool forms_again) {
  if (MLPAdapter* adapter = active_adapter()) {
    if (norm != nullptr) {
      return {adapter->forward(*this, norm->forward(stream))};
    }
    stream = {stream.sum()};
    return {adapter->forward(*this, stream.states)};
  }
  const Projected projected = project_stream(norm, stream, {gate_proj.get(), up_proj.get()}, forms_again);
  const at::Tensor &gate = projected.outputs[0], &up = projected.outputs[1];
  at::Tensor product = gated(activation_, gate, up, projected.gradient_rows);
  StreamChange change = change_by(*down_proj, product);
  if (forms_again) {
    const auto form = [activation = activation_, gate = gate.detach(), up = up.detach()] {
      return gated(activation, gate, up);
    };
    detail::form_again(std::move(product), form, {change.values});
  }
  return change;
}

at::Tensor MLPImpl::forward(const at::Tensor& x) {
  const Projected projected = project_together(x, {gate_proj.get(), up_proj.get()});
  return down_proj->forward(gated(activation_, projected.outputs[0], projected.outputs[1], projected.gradient_rows));
}

DecoderLayerImpl::DecoderLayerImpl(const DecoderOptions& options, int64_t layer)
    : norm_placement_(options.norm_placement()),
      hidden_(options.hidden_size()),
      residual_multiplier_(options.residual_multiplier()) {
  const LayerShape shape = options.layer_shape(layer);
  const bool before = norm_placement_ != NormPlacement::kAfter;
  const bool after = norm_placement_ != NormPlacement::kBefore;
  const auto add_norm = [&](RMSNorm& norm, const char* name) {
    norm = register_module(name, RMSNorm(hidden_, options.rms_norm_eps(), options.norm_adds_one()));
  };
  if (shape.num_attention_heads > 0) {
    if (before) {
      add_norm(input_layernorm, "input_layernorm");
    }
    self_attn = register_module("self_attn", Attention(options, layer));
    if (after) {
      add_norm(post_attention_layernorm, "post_attention_layernorm");
    }
  }
  if (shape.intermediate_size > 0) {
    if (before) {
      add_norm(norm_before_mlp(), after ? "pre_feedforward_layernorm" : "post_attention_layernorm");
    }
    mlp = register_module("mlp", MLP(options, layer));
    if (after) {
      add_norm(post_feedforward_layernorm, "post_feedforward_layernorm");
    }
  }
}

RMSNorm& DecoderLayerImpl::norm_before_mlp() {
  return norm_placement_ == NormPlacement::kBefore ? post_attention_layernorm : pre_feedforward_layernorm;
}

ResidualStream DecoderLayerImpl::forward(ResidualStream stream, const LayerContext& context) {
  const auto pointer = [](RMSNorm& norm) { return norm.is_empty() ? nullptr : norm.get(); };
  const auto weighted = [&](StreamChange change, RMSNorm& norm_after) {
    if (norm_placement_ != NormPlacement::kBefore) {
      change = {norm_after->forward(change.values)};
    }
    return residual_multiplier_ == 1.0 ? change : StreamChange{change.values * residual_multiplier_};
  };
  if (!self_attn.is_empty()) {
    StreamChange change =
        weighted(self_attn->forward(pointer(input_layernorm), stream, context), post_attention_layernorm);
    stream = {context.of_chosen(stream.states), std::move(change)};
  } else {
    stream = {context.of_chosen(stream.sum())};
  }
  if (!mlp.is_empty()) {
    stream.change =
        weighted(mlp->forward(pointer(norm_before_mlp()), stream, context.forms_again), post_feedforward_layernorm);
  }
  return stream;
}

at::Tensor DecoderLayerImpl::forward(const at::Tensor& x, const LayerContext& context) {
  return forward(ResidualStream{x}, context).sum();
}

} // namespace rora
