#include <rora/training/memory_estimate.h>

#include <rora/adapters/low_rank_adapter.h>

#include <algorithm>

namespace rora {
namespace {

/// As `ops::token_cross_entropy` chooses its chunk by default.
constexpr int64_t kLogitsBytes = int64_t{64} << 20;
constexpr int64_t kFloatBytes = 4;

/// Bytes that the projections of one input keep for backward, beside their outputs: x once, where A, the magnitude or
/// the weight is trained; Ŝ of each adapter; with DoRA each output, or what the row norms multiply under dropout.
struct Kept {
  int64_t input = 0;
  int64_t shrunk = 0;
  int64_t outputs = 0;
};

Kept kept_by(std::initializer_list<const ProjectionImpl*> projections, int64_t tokens, int64_t element) {
  Kept kept;
  for (const ProjectionImpl* each : projections) {
    const auto* adapter = dynamic_cast<const LowRankAdapter*>(each->active_adapter());
    if (adapter != nullptr || each->weight.requires_grad()) {
      kept.input = tokens * each->in_features() * element;
    }
    if (adapter != nullptr) {
      kept.shrunk += tokens * adapter->options.rank() * element;
      kept.outputs += adapter->options.dora() ? tokens * each->out_features() * element : 0;
    }
  }
  return kept;
}

struct LayerBytes {
  int64_t kept = 0;
  int64_t backward = 0; ///< the most that stands at once while the layer's backward runs
};

LayerBytes layer_bytes(LlamaDecoderLayerImpl& layer, const BatchShape& batch, int64_t hidden, int64_t head_dim, int64_t element) {
  const int64_t tokens = batch.rows * batch.seq;
  LayerBytes bytes;
  if (!layer.self_attn.is_empty()) {
    LlamaAttentionImpl& attention = *layer.self_attn;
    const int64_t width = attention.q_proj->out_features();
    const int64_t heads = width / head_dim;
    const Kept in = kept_by({attention.q_proj.get(), attention.k_proj.get(), attention.v_proj.get()}, tokens, element);
    const Kept out = kept_by({attention.o_proj.get()}, tokens, element);
    bytes.kept += tokens * (hidden * element + kFloatBytes); // RMSNorm: its input, and 1/rms in fp32
    bytes.kept += in.input + in.shrunk + in.outputs + out.shrunk + out.outputs;
    // Attention keeps q, and k and v repeated to q's heads, its output, and its weights: heads × seq × seq a row.
    bytes.kept += 4 * tokens * width * element + tokens * heads * batch.seq * element;
    bytes.backward = 4 * tokens * width * element + 2 * tokens * heads * batch.seq * element;
  }
  if (!layer.mlp.is_empty()) {
    LlamaMLPImpl& mlp = *layer.mlp;
    const int64_t inner = mlp.gate_proj->out_features();
    const Kept in = kept_by({mlp.gate_proj.get(), mlp.up_proj.get()}, tokens, element);
    const Kept out = kept_by({mlp.down_proj.get()}, tokens, element);
    bytes.kept += tokens * (hidden * element + kFloatBytes);
    // SwiGLU keeps gate and up themselves, which under DoRA are kept already unless dropout has other tensors kept.
    bytes.kept += in.input + in.shrunk + out.input + out.shrunk + out.outputs + 2 * tokens * inner * element;
    bytes.backward = std::max(bytes.backward, 4 * tokens * inner * element); // of the product, gate, up, and one more
  }
  bytes.backward += 2 * tokens * hidden * element; // the residual stream's gradient and a branch's
  return bytes;
}

} // namespace

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
        shape.labelled_tokens += std::count_if(example.labels.begin() + 1, example.labels.end(), [](int64_t label) {
          return label != kIgnoreIndex;
        });
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
  LayerBytes worst;
  int64_t all = 0;
  for (const auto& module : *model->model->layers) {
    const LayerBytes bytes = layer_bytes(
        *module->as<LlamaDecoderLayerImpl>(), batch, hidden, options.resolved_head_dim(), element);
    all += bytes.kept;
    worst.kept = std::max(worst.kept, bytes.kept);
    worst.backward = std::max(worst.backward, bytes.backward);
  }
  // With checkpointing each layer keeps its input alone, and one at a time is run again.
  const bool checkpointing = model->model->activation_checkpointing;
  estimate.activations = worst.backward +
      (checkpointing ? options.num_hidden_layers() * tokens * hidden * element + worst.kept : all);

  // The last norm's input and output; then of the labelled tokens their states and gradients, and a chunk's logits: in
  // fp32 and, of a model in a smaller dtype, before and after that.
  const int64_t vocab = options.vocab_size();
  const int64_t chunk = std::min(batch.labelled_tokens, std::max<int64_t>(1, kLogitsBytes / (kFloatBytes * vocab)));
  const int64_t widths = element < kFloatBytes ? kFloatBytes + element : kFloatBytes;
  estimate.logits = 2 * tokens * hidden * element + 2 * batch.labelled_tokens * hidden * element + chunk * vocab * widths;
  if (model->head_weight().requires_grad()) {
    estimate.logits += 2 * vocab * hidden * kFloatBytes; // the head's gradient, and once more scaled
  }
  return estimate;
}

} // namespace rora
