#include <rora/training/memory_estimate.h>

#include <rora/adapters/low_rank_adapter.h>
#include <rora/ops/cross_entropy.h>

#include <algorithm>

namespace rora {
namespace {

constexpr int64_t kWideBytes = 4;

/// Floating-point numbers that one layer keeps for its backward, a token.
struct LayerNumbers {
  int64_t kept = 0;       ///< in the model's dtype
  int64_t kept_wide = 0;  ///< in fp32
  int64_t backward = 0;   ///< the most that its backward forms beside them
};

/// What projections that read the same input keep: the input once, where A or a weight is trained, and Ŝ of each
/// adapter. `input_kept`: another operation keeps the input already.
int64_t kept_by_group(std::initializer_list<const ProjectionImpl*> group, bool input_kept = false) {
  int64_t input = 0;
  int64_t shrunk = 0;
  for (const ProjectionImpl* each : group) {
    const auto* adapter = dynamic_cast<const LowRankAdapter*>(each->active_adapter());
    if ((adapter != nullptr || each->weight.requires_grad()) && !input_kept) {
      input = each->in_features();
    }
    shrunk += adapter != nullptr ? adapter->options.rank() : 0;
  }
  return input + shrunk;
}

/// What DoRA keeps besides: the output, from which the magnitude's gradient comes, or with dropout on the adapter's
/// input another tensor of its size. `output_kept`: another operation keeps the output already.
int64_t kept_by_dora(const ProjectionImpl& projection, bool output_kept) {
  const auto* adapter = dynamic_cast<const LowRankAdapter*>(projection.active_adapter());
  if (adapter == nullptr || !adapter->options.dora()) {
    return 0;
  }
  const bool directed = adapter->options.dropout() > 0.0 && adapter->options.dora_dropout() == ops::DoraDropout::kInput;
  return directed || !output_kept ? projection.out_features() : 0;
}

LayerNumbers count_layer(LlamaDecoderLayerImpl& layer, int64_t hidden, int64_t head_dim) {
  LayerNumbers numbers;
  numbers.backward = 3 * hidden;  // the residual stream's gradient, a branch's, and the norm's
  if (!layer.self_attn.is_empty()) {
    const LlamaAttentionImpl& attention = *layer.self_attn;
    const auto &q = *attention.q_proj, &k = *attention.k_proj, &v = *attention.v_proj, &o = *attention.o_proj;
    numbers.kept += hidden;  // the norm's input; its output is the projections'
    numbers.kept += kept_by_group({&q, &k, &v}) + kept_by_group({&o}, /*input_kept=*/true);
    // Attention keeps q and k, turned by their positions, v, and its output, which o_proj reads; and a number a head.
    numbers.kept += 2 * q.out_features() + k.out_features() + v.out_features();
    numbers.kept += kept_by_dora(q, false) + kept_by_dora(k, false) + kept_by_dora(v, true) + kept_by_dora(o, false);
    const int64_t heads = q.out_features() / head_dim;
    numbers.kept_wide += 1 + heads;
    numbers.backward += 2 * q.out_features();
  }
  if (!layer.mlp.is_empty()) {
    const LlamaMLPImpl& mlp = *layer.mlp;
    const auto &gate = *mlp.gate_proj, &up = *mlp.up_proj, &down = *mlp.down_proj;
    const int64_t inner = gate.out_features();
    numbers.kept += hidden + kept_by_group({&gate, &up}) + kept_by_group({&down});
    numbers.kept += 2 * inner;  // SwiGLU keeps gate and up
    numbers.kept += kept_by_dora(gate, true) + kept_by_dora(up, true) + kept_by_dora(down, false);
    numbers.kept_wide += 1;
    // The product's gradient, and gate's and up's, while the product itself is done with. All that the MLP kept is done
    // with when attention's turn comes.
    numbers.backward = std::max(numbers.backward - 3 * inner - 2 * hidden, 3 * hidden + 2 * inner);
  }
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

MemoryEstimate estimate_memory(const LlamaForCausalLM& model, const BatchShape& batch, bool validation) {
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
  estimate.gradients = estimate.trained + largest_weight;
  estimate.optimizer = 2 * estimate.trained;
  estimate.best = validation ? estimate.trained : 0;

  const LlamaOptions& options = model->options;
  const auto element = static_cast<int64_t>(model->model->embed_tokens->weight.element_size());
  const int64_t tokens = batch.rows * batch.seq;
  const int64_t hidden = options.hidden_size();
  int64_t kept = 0;       // bytes a token, of all layers
  int64_t most_kept = 0;  // of one layer
  int64_t most_backward = 0;
  for (const auto& module : *model->model->layers) {
    const LayerNumbers layer = count_layer(
        *module->as<LlamaDecoderLayerImpl>(), hidden, options.resolved_head_dim());
    const int64_t bytes = layer.kept * element + layer.kept_wide * kWideBytes;
    kept += bytes;
    most_kept = std::max(most_kept, bytes);
    most_backward = std::max(most_backward, layer.backward * element);
  }
  if (model->model->activation_checkpointing) {
    // Each layer keeps its input alone, and one at a time is run again.
    kept = options.num_hidden_layers() * hidden * element;
    most_backward += most_kept;
  }
  // The last norm's input, and the gradients of the labelled tokens' states, which are formed with the loss.
  estimate.activations = tokens * (kept + hidden * element) + batch.labelled_tokens * hidden * element;

  // A chunk's logits, which become their gradient in place; the states that they come from.
  const int64_t vocab = options.vocab_size();
  const int64_t chunk = std::min(batch.labelled_tokens, ops::cross_entropy_chunk(vocab, element));
  int64_t loss = (chunk * vocab + (tokens + batch.labelled_tokens) * hidden) * element;
  int64_t backward = tokens * most_backward;
  if (model->head_weight().requires_grad()) {
    loss += vocab * hidden * kWideBytes;
    backward += 2 * vocab * hidden * kWideBytes;  // the head's gradient, as formed with the loss and once more scaled
  }
  estimate.temporaries = std::max(loss, backward);
  return estimate;
}

}  // namespace rora
