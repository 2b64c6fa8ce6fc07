#include <rora/model/decoder_layer.h>

#include <rora/model/projection_group.h>
#include <rora/ops/attention.h>
#include <rora/ops/rotary_embedding.h>
#include <rora/ops/swiglu.h>

#include <ATen/ATen.h>

namespace rora {

AttentionImpl::AttentionImpl(const DecoderOptions& options, int64_t layer)
    : layer_(layer), head_dim_(options.resolved_head_dim()) {
  const LayerShape shape = options.layer_shape(layer);
  const int64_t width = shape.num_attention_heads * head_dim_;
  const int64_t kv_width = shape.num_key_value_heads * head_dim_;
  const bool bias = options.attention_bias();
  q_proj = register_module("q_proj", Projection(options.hidden_size(), width, bias));
  k_proj = register_module("k_proj", Projection(options.hidden_size(), kv_width, bias));
  v_proj = register_module("v_proj", Projection(options.hidden_size(), kv_width, bias));
  o_proj = register_module("o_proj", Projection(width, options.hidden_size(), bias));
}

at::Tensor AttentionImpl::forward(RMSNormImpl& norm, ResidualStream& stream, const LayerContext& context) {
  const int64_t batch = stream.states.size(0);
  const int64_t seq = stream.states.size(1);
  const auto by_head = [&](const at::Tensor& flat) {
    return flat.view({batch, seq, -1, head_dim_}).transpose(1, 2);
  };
  const auto projected = project_norm(norm, stream, {q_proj.get(), k_proj.get(), v_proj.get()});
  const at::Tensor q = ops::rotary_embedding(by_head(projected[0]), context.cos, context.sin);
  at::Tensor k = ops::rotary_embedding(by_head(projected[1]), context.cos, context.sin);
  at::Tensor v = by_head(projected[2]);
  if (context.cache != nullptr) {
    std::tie(k, v) = context.cache->append(static_cast<size_t>(layer_), k, v);
  }
  const at::Tensor mixed = ops::attention_within(context.sequences, q, k, v);
  return o_proj->forward(context.of_chosen(mixed.transpose(1, 2).reshape({batch, seq, -1})));
}

MLPImpl::MLPImpl(const DecoderOptions& options, int64_t layer) {
  const int64_t hidden = options.hidden_size();
  const int64_t inner = options.layer_shape(layer).intermediate_size;
  gate_proj = register_module("gate_proj", Projection(hidden, inner, options.mlp_bias()));
  up_proj = register_module("up_proj", Projection(hidden, inner, options.mlp_bias()));
  down_proj = register_module("down_proj", Projection(inner, hidden, options.mlp_bias()));
}

at::Tensor MLPImpl::forward(RMSNormImpl& norm, ResidualStream& stream) {
  const auto projected = project_norm(norm, stream, {gate_proj.get(), up_proj.get()});
  return down_proj->forward(ops::swiglu(projected[0], projected[1]));
}

DecoderLayerImpl::DecoderLayerImpl(const DecoderOptions& options, int64_t layer) {
  const LayerShape shape = options.layer_shape(layer);
  if (shape.num_attention_heads > 0) {
    input_layernorm = register_module("input_layernorm", RMSNorm(options.hidden_size(), options.rms_norm_eps()));
    self_attn = register_module("self_attn", Attention(options, layer));
  }
  if (shape.intermediate_size > 0) {
    post_attention_layernorm =
        register_module("post_attention_layernorm", RMSNorm(options.hidden_size(), options.rms_norm_eps()));
    mlp = register_module("mlp", MLP(options, layer));
  }
}

ResidualStream DecoderLayerImpl::forward(ResidualStream stream, const LayerContext& context) {
  if (!self_attn.is_empty()) {
    const at::Tensor change = self_attn->forward(*input_layernorm, stream, context);
    stream = {context.of_chosen(stream.states), change};
  } else {
    stream = {context.of_chosen(stream.sum())};
  }
  if (!mlp.is_empty()) {
    stream.change = mlp->forward(*post_attention_layernorm, stream);
  }
  return stream;
}

at::Tensor DecoderLayerImpl::forward(const at::Tensor& x, const LayerContext& context) {
  return forward(ResidualStream{x}, context).sum();
}

} // namespace rora
