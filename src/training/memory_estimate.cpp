#include <rora/training/memory_estimate.h>

#include <rora/model/decoder.h>

#include <rora/core/low_rank_adapter.h>
#include <rora/ops/cross_entropy.h>

#include <algorithm>

namespace rora {
namespace {

constexpr int64_t kWideBytes = 4;

/// Floating-point numbers that one layer keeps for its backward, a token: in the model's dtype, but for `statistics`.
struct LayerNumbers {
  int64_t norm_inputs = 0;
  int64_t projection_inputs = 0; ///< those that no other operation keeps
  int64_t shrunk = 0;            ///< Ŝ of each adapter
  int64_t attention = 0;         ///< q and k, turned by their positions, v, and the output
  int64_t gate_and_up = 0;
  int64_t dora = 0;
  int64_t statistics = 0; ///< of norms and attention's rows, in fp32
  int64_t backward = 0;   ///< the most that its backward forms beside them

  int64_t kept_bytes(int64_t element) const {
    const int64_t numbers = norm_inputs + projection_inputs + shrunk + attention + gate_and_up + dora;
    return numbers * element + statistics * kWideBytes;
  }
  LayerNumbers& operator+=(const LayerNumbers& other) {
    norm_inputs += other.norm_inputs;
    projection_inputs += other.projection_inputs;
    shrunk += other.shrunk;
    attention += other.attention;
    gate_and_up += other.gate_and_up;
    dora += other.dora;
    statistics += other.statistics;
    backward = std::max(backward, other.backward);
    return *this;
  }
};

/// Adds what projections that read the same input keep: the input once, where A or a weight is trained, unless
/// `input_kept` elsewhere, and Ŝ of each adapter.
void add_group(
    LayerNumbers& numbers, std::initializer_list<const ProjectionImpl*> group, bool input_kept = false) {
  int64_t input = 0;
  for (const ProjectionImpl* each : group) {
    const Adapter* adapter = each->active_adapter();
    const AdapterMemory memory = adapter != nullptr ? adapter->memory(*each, false) : AdapterMemory{false};
    const bool trained = each->weight.defined() && each->weight.requires_grad();
    if ((memory.input || trained) && !input_kept) {
      input = each->in_features();
    }
    numbers.shrunk += memory.hidden;
  }
  numbers.projection_inputs += input;
}

/// What DoRA keeps besides: the output, from which the magnitude's gradient comes, or with dropout on the adapter's
/// input another tensor of its size. `output_kept`: another operation keeps the output already.
int64_t kept_by_dora(const ProjectionImpl& projection, bool output_kept) {
  const Adapter* adapter = projection.active_adapter();
  return adapter == nullptr ? 0 : adapter->memory(projection, output_kept).outputs;
}

LayerNumbers count_attention(const DecoderLayerImpl& layer, int64_t hidden, int64_t head_dim) {
  LayerNumbers numbers;
  numbers.backward = 3 * hidden;  // the residual stream's gradient, a branch's, and the norm's
  if (!layer.self_attn.is_empty()) {
    const AttentionImpl& attention = *layer.self_attn;
    const auto &q = *attention.q_proj, &k = *attention.k_proj, &v = *attention.v_proj, &o = *attention.o_proj;
    numbers.norm_inputs += hidden;  // the norm's output is the projections' input
    add_group(numbers, {&q, &k, &v});
    add_group(numbers, {&o}, /*input_kept=*/true);
    numbers.attention += 2 * q.out_features() + k.out_features() + v.out_features();
    numbers.dora += kept_by_dora(q, false) + kept_by_dora(k, false) + kept_by_dora(v, true) + kept_by_dora(o, false);
    numbers.statistics += 1 + q.out_features() / head_dim;
    numbers.backward += 2 * q.out_features();
  }
  return numbers;
}

LayerNumbers count_mlp(const DecoderLayerImpl& layer, int64_t hidden) {
  LayerNumbers numbers;
  if (!layer.mlp.is_empty()) {
    const MLPImpl& mlp = *layer.mlp;
    const auto &gate = *mlp.gate_proj, &up = *mlp.up_proj, &down = *mlp.down_proj;
    const int64_t inner = gate.out_features();
    numbers.norm_inputs += hidden;
    add_group(numbers, {&gate, &up});
    add_group(numbers, {&down});
    numbers.gate_and_up += 2 * inner;
    numbers.dora += kept_by_dora(gate, true) + kept_by_dora(up, true) + kept_by_dora(down, false);
    numbers.statistics += 1;
    // The product's gradient, and gate's and up's, while the product itself is done with.
    numbers.backward = 3 * hidden + 2 * inner;
  }
  return numbers;
}

/// What o_proj keeps of its input.
int64_t kept_by_output(const DecoderLayerImpl& layer) {
  LayerNumbers numbers;
  if (!layer.self_attn.is_empty()) {
    add_group(numbers, {layer.self_attn->o_proj.get()});
  }
  return numbers.projection_inputs;
}

LayerNumbers count_layer(const DecoderLayerImpl& layer, int64_t hidden, int64_t head_dim) {
  LayerNumbers numbers = count_attention(layer, hidden, head_dim);
  const LayerNumbers mlp = count_mlp(layer, hidden);
  // All that the MLP kept is done with when attention's turn comes.
  numbers.backward -= mlp.gate_and_up / 2 * 3 + (mlp.gate_and_up > 0 ? 2 * hidden : 0);
  numbers += mlp;
  return numbers;
}

}  // namespace

BatchShape largest_batch(const std::vector<Example>& examples, const BatchOptions& options) {
  BatchShape largest;
  for (const auto& rows : plan_epoch(examples, options, 0)) {
    BatchShape shape;
    shape.rows = static_cast<int64_t>(rows.size());
    for (const auto& row : rows) {
      int64_t length = 0;
      for (const int64_t index : row) {
        const Example& example = examples[static_cast<size_t>(index)];
        length += static_cast<int64_t>(example.input_ids.size());
        shape.labelled_tokens += std::count_if(
            example.labels.begin() + 1, example.labels.end(), [](int64_t label) { return label != kIgnoreIndex; });
      }
      shape.seq = std::max(shape.seq, length);
    }
    if (shape.rows * shape.seq > largest.rows * largest.seq) {
      largest.rows = shape.rows;
      largest.seq = shape.seq;
    }
    largest.labelled_tokens = std::max(largest.labelled_tokens, shape.labelled_tokens);
  }
  return largest;
}

MemoryEstimate estimate_memory(const CausalLM& model, const BatchShape& batch, bool validation) {
  MemoryEstimate estimate;
  int64_t largest_weight = 0;
  for (const at::Tensor& parameter : model->parameters()) {
    const auto bytes = static_cast<int64_t>(parameter.nbytes());
    if (!parameter.requires_grad()) {
      estimate.weights += bytes;
      continue;
    }
    estimate.trained += bytes;
    largest_weight = std::max(largest_weight, bytes);
  }
  for (const auto& module : model->modules()) {
    if (const auto* projection = module->as<ProjectionImpl>()) {
      estimate.packed += projection->base().packed_bytes();
    }
  }
  estimate.gradients = estimate.trained + largest_weight;
  estimate.optimizer = 2 * estimate.trained;
  estimate.best = validation ? estimate.trained : 0;

  const DecoderOptions& options = model->options;
  const auto element = static_cast<int64_t>(model->head_weight().element_size());
  const int64_t tokens = batch.rows * batch.seq;
  const int64_t hidden = options.hidden_size();
  LayerNumbers all;
  int64_t most_kept = 0;  // bytes a token, of one layer
  int64_t behind_attention = 0;  // bytes a token, of the last layer: for labelled tokens only
  int64_t chosen_from_attention = 0;  // the same of what o_proj there reads, if that is kept
  for (const auto& module : *model->as<DecoderForCausalLMImpl>()->model->layers) {
    const LayerNumbers layer = count_layer(
        *module->as<DecoderLayerImpl>(), hidden, options.resolved_head_dim());
    all += layer;
    most_kept = std::max(most_kept, layer.kept_bytes(element));
    behind_attention = count_mlp(*module->as<DecoderLayerImpl>(), hidden).kept_bytes(element);
    chosen_from_attention = kept_by_output(*module->as<DecoderLayerImpl>()) * element;
  }
  int64_t most_backward = all.backward * element;
  if (model->activation_checkpointing) {
    // One layer at a time is run again.
    estimate.kept = {{"layers' inputs", options.num_hidden_layers() * hidden * element}};
    most_backward += most_kept - hidden * element; // its input is there already
  } else {
    estimate.kept = {
        {"norms' inputs", all.norm_inputs * element},
        {"projections' inputs", all.projection_inputs * element},
        {"adapters' s*A*x", all.shrunk * element},
        {"q, k, v and attention's output", all.attention * element},
        {"gate and up", all.gate_and_up * element},
        {"DoRA's outputs", all.dora * element},
        {"statistics of norms and softmax", all.statistics * kWideBytes}};
  }
  int64_t kept = 0;
  for (const KeptForBackward& each : estimate.kept) {
    kept += each.bytes;
  }
  // Of labelled tokens alone: the last norm's input, and the gradients of the states, which are formed with the loss.
  const int64_t kept_behind_layers = 2 * batch.labelled_tokens * hidden * element;
  estimate.activations = tokens * kept + kept_behind_layers;
  if (!model->activation_checkpointing) {
    estimate.activations -= (tokens - batch.labelled_tokens) * behind_attention;
    estimate.activations += batch.labelled_tokens * chosen_from_attention;
  }

  // A chunk's logits, which become their gradient in place; the states that they come from.
  const int64_t vocab = options.vocab_size();
  const at::Device device = model->device();
  const int64_t chunk = std::min(batch.labelled_tokens, ops::cross_entropy_chunk(vocab, element, device));
  int64_t loss = (chunk * vocab + (tokens + batch.labelled_tokens) * hidden) * element;
  int64_t backward = tokens * most_backward - kept_behind_layers; // done with when the layers' turn comes
  if (model->head_weight().requires_grad()) {
    loss += vocab * hidden * kWideBytes;
    backward += 2 * vocab * hidden * kWideBytes;  // the head's gradient, as formed with the loss and once more scaled
  }
  estimate.temporaries = std::max(loss, backward);
  return estimate;
}

}  // namespace rora
