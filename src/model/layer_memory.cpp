#include <rora/model/layer_memory.h>

#include <rora/model/decoder_layer.h>

#include <algorithm>
#include <initializer_list>

namespace rora {
namespace {

AdapterMemory adapter_memory(const ProjectionImpl& projection, bool output_kept) {
  const Adapter* adapter = projection.active_adapter();
  return adapter != nullptr ? adapter->memory(projection, output_kept) : AdapterMemory{false};
}

/// What projections that read the same input keep of it: once, where an adapter reads it again or a weight is trained.
int64_t kept_input(std::initializer_list<const ProjectionImpl*> group) {
  for (const ProjectionImpl* each : group) {
    const bool trained = each->weight.defined() && each->weight.requires_grad();
    if (trained || adapter_memory(*each, false).input) {
      return each->in_features();
    }
  }
  return 0;
}

/// Ŝ of each adapter of the group.
int64_t kept_shrunk(std::initializer_list<const ProjectionImpl*> group) {
  int64_t numbers = 0;
  for (const ProjectionImpl* each : group) {
    numbers += adapter_memory(*each, false).hidden;
  }
  return numbers;
}

/// What DoRA keeps besides: the output, from which the magnitude's gradient comes, or with dropout on the adapter's
/// input another tensor of its size. `output_kept`: another operation keeps the output already.
int64_t kept_by_dora(const ProjectionImpl& projection, bool output_kept) {
  return adapter_memory(projection, output_kept).outputs;
}

/// The residual stream's gradient, a branch's, and the norm's.
int64_t formed_by_norm(int64_t hidden) {
  return 3 * hidden;
}

/// Where there are norms before and after, those after: each keeps its input too. One after in place of the one before
/// keeps as much as that.
void add_norm_after(KeptNumbers& numbers, NormPlacement placement, int64_t hidden) {
  if (placement == NormPlacement::kBeforeAndAfter) {
    numbers.norm_inputs += hidden;
    numbers.statistics += 1;
  }
}

} // namespace

KeptNumbers AttentionImpl::memory(int64_t hidden, bool norm_forms_again) const {
  const auto &q = *q_proj, &k = *k_proj, &v = *v_proj, &o = *o_proj;
  KeptNumbers numbers;
  numbers.norm_inputs = hidden;
  const int64_t input = kept_input({&q, &k, &v});
  numbers.projection_inputs = norm_forms_again ? 0 : input; // o's is attention's output
  numbers.shrunk = kept_shrunk({&q, &k, &v, &o});
  numbers.attention = 2 * q.out_features() + k.out_features() + v.out_features();
  numbers.dora = kept_by_dora(q, false) + kept_by_dora(k, false) + kept_by_dora(v, true) + kept_by_dora(o, false);
  numbers.statistics = 1 + q.out_features() / head_dim_;
  if (!q_norm.is_empty()) { // they keep their inputs
    numbers.norm_inputs += q.out_features() + k.out_features();
    numbers.statistics += norms_all_heads_ ? 2 : (q.out_features() + k.out_features()) / head_dim_;
  }
  numbers.backward = formed_by_norm(hidden) + 2 * q.out_features() + (norm_forms_again ? input : 0);
  return numbers;
}

KeptNumbers MLPImpl::memory(int64_t hidden, bool forms_again, bool norm_forms_again) const {
  const auto &gate = *gate_proj, &up = *up_proj, &down = *down_proj;
  const int64_t inner = gate.out_features();
  KeptNumbers numbers;
  numbers.norm_inputs = hidden;
  const int64_t input = kept_input({&gate, &up}), product = kept_input({&down});
  forms_again = forms_again && active_adapter() == nullptr;
  norm_forms_again = norm_forms_again && active_adapter() == nullptr;
  numbers.projection_inputs = (norm_forms_again ? 0 : input) + (forms_again ? 0 : product);
  numbers.shrunk = kept_shrunk({&gate, &up, &down});
  if (const MLPAdapter* adapter = active_adapter()) {
    numbers.projection_inputs += input > 0 ? 0 : hidden;
    numbers.shrunk += adapter->kept_numbers(*this);
  }
  numbers.gate_and_up = (activation_ == Activation::kSiLU ? 2 : 3) * inner; // gelu's result is not formed again
  numbers.dora = kept_by_dora(gate, true) + kept_by_dora(up, true) + kept_by_dora(down, false);
  numbers.statistics = 1;
  // The product's gradient, and gate's and up's, while the product itself is done with; what is formed again in turn.
  numbers.backward =
      formed_by_norm(hidden) + 2 * inner + std::max(forms_again ? product : 0, norm_forms_again ? input : 0);
  return numbers;
}

LayerMemory DecoderLayerImpl::memory(bool forms_again) const {
  const bool norm_forms_again =
      forms_again && norm_placement_ != NormPlacement::kAfter; // else the stream itself is kept
  LayerMemory memory;
  memory.all.backward = formed_by_norm(hidden_);
  if (!self_attn.is_empty()) {
    const AttentionImpl& attention = *self_attn;
    memory.all = attention.memory(hidden_, norm_forms_again);
    add_norm_after(memory.all, norm_placement_, hidden_);
    memory.chosen_from_attention = kept_input({attention.o_proj.get()});
    if (const AttentionAdapter* adapter = attention.active_adapter()) {
      memory.row = adapter->prefix_length() * (attention.k_proj->out_features() + attention.v_proj->out_features());
    }
  }
  if (!mlp.is_empty()) {
    memory.behind_attention = mlp->memory(hidden_, forms_again, norm_forms_again);
    add_norm_after(memory.behind_attention, norm_placement_, hidden_);
    const int64_t of_attention = memory.all.backward;
    memory.all += memory.behind_attention;
    memory.all.backward = of_attention;
  }
  return memory;
}

} // namespace rora
