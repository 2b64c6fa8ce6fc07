#include <rora/training/memory_estimate.h>

#include <rora/core/linear_weight.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>
#include <rora/ops/cross_entropy.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

namespace rora {
namespace {

constexpr int64_t kWideBytes = 4;

int64_t kept_bytes(const KeptNumbers& numbers, int64_t element) {
  return numbers.numbers() * element + numbers.statistics * kWideBytes;
}

/// Parameters, and frozen weights that are stored another way.
void add_weights(MemoryEstimate& estimate, const CausalLM& model) {
  int64_t largest_weight = 0;
  std::set<const void*> counted; // an untied head shares the embedding's memory
  for (const at::Tensor& parameter : model->parameters()) {
    const auto bytes = static_cast<int64_t>(parameter.nbytes());
    if (!parameter.requires_grad()) {
      const void* at = parameter.const_data_ptr();
      estimate.weights += at == nullptr || counted.insert(at).second ? bytes : 0;
      continue;
    }
    estimate.trained += bytes;
    largest_weight = std::max(largest_weight, bytes);
  }
  for (const auto& module : model->modules()) {
    if (const auto* projection = module->as<ProjectionImpl>()) {
      estimate.packed += projection->base().prepacked_bytes();
    } else if (module->as<ops::LinearWeight>() != nullptr || module->as<Adapter>() != nullptr) {
      for (const at::Tensor& buffer : module->buffers()) {
        estimate.weights += static_cast<int64_t>(buffer.nbytes());
      }
    }
  }
  estimate.gradients = estimate.trained + largest_weight;
}

/// R·A of each adapter with a core, which every forward forms and keeps for its backward.
int64_t formed_bytes(const CausalLM& model) {
  int64_t bytes = 0;
  for (const auto& module : model->modules()) {
    if (const auto* adapter = module->as<LowRankAdapter>(); adapter != nullptr && adapter->options.core()) {
      bytes += static_cast<int64_t>(adapter->lora_A.nbytes());
    }
  }
  return bytes;
}

/// The most bytes that a layer's backward forms, beyond what is done with by then: of the parts behind it, and of the
/// layers behind it unless these `run_again`. The last layer's part behind attention is of labelled tokens alone.
int64_t formed_in_backward(
    const std::vector<LayerMemory>& layers, const BatchShape& batch, int64_t element, bool run_again) {
  const int64_t tokens = batch.rows * batch.seq;
  int64_t most = 0, done_with = 0;
  int64_t tokens_behind = run_again ? tokens : batch.labelled_tokens;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer, tokens_behind = tokens) {
    const int64_t behind = kept_bytes(layer->behind_attention, element);
    most = std::max(
        {most, tokens_behind * layer->behind_attention.backward * element - done_with,
         tokens * layer->all.backward * element - tokens_behind * behind - done_with});
    done_with += run_again ? 0 : tokens * kept_bytes(layer->all, element) - (tokens - tokens_behind) * behind;
  }
  return most;
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

MemoryEstimate estimate_memory(
    const CausalLM& model, const BatchShape& batch, bool validation, std::optional<int64_t> optimizer_bytes) {
  MemoryEstimate estimate;
  add_weights(estimate, model);
  estimate.optimizer = optimizer_bytes.value_or(2 * estimate.trained);
  estimate.best = validation ? estimate.trained : 0;

  const DecoderOptions& options = model->options;
  const auto element = static_cast<int64_t>(c10::elementSize(model->dtype()));
  const int64_t tokens = batch.rows * batch.seq;
  const int64_t hidden = options.hidden_size();
  const std::vector<LayerMemory> layers = model->layer_memory();
  KeptNumbers all;
  int64_t most_kept = 0; // bytes a token, of one layer
  int64_t rows = 0; // numbers a row
  int64_t most_rows = 0; // of one layer
  for (const LayerMemory& layer : layers) {
    all += layer.all;
    most_kept = std::max(most_kept, kept_bytes(layer.all, element));
    rows += layer.row;
    most_rows = std::max(most_rows, layer.row);
  }
  // Bytes a token, of the last layer: for labelled tokens only; and of what its output projection reads, if that is
  // kept.
  const int64_t behind_attention = layers.empty() ? 0 : kept_bytes(layers.back().behind_attention, element);
  const int64_t chosen_from_attention = layers.empty() ? 0 : layers.back().chosen_from_attention * element;
  const bool runs_again = model->checkpointing == Checkpointing::kFull;
  if (runs_again) {
    // One layer at a time is run again.
    estimate.kept = {{"layers' inputs", options.num_hidden_layers() * hidden * element}};
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
  if (!runs_again) {
    estimate.activations += batch.rows * rows * element + formed_bytes(model);
    estimate.activations -= (tokens - batch.labelled_tokens) * behind_attention;
    estimate.activations += batch.labelled_tokens * chosen_from_attention;
  }

  // A chunk's logits, which become their gradient in place; the states that they come from.
  const int64_t vocab = options.vocab_size();
  const at::Device device = model->device();
  const int64_t chunk = std::min(batch.labelled_tokens, ops::cross_entropy_chunk(vocab, element, device));
  int64_t loss = (chunk * vocab + (tokens + batch.labelled_tokens) * hidden) * element;
  int64_t backward = formed_in_backward(layers, batch, element, runs_again);
  backward -= kept_behind_layers; // done with when the layers' turn comes
  if (runs_again) {
    backward += tokens * (most_kept - hidden * element); // its input is there already
    backward += batch.rows * most_rows * element;
  }
  const at::Tensor head_weight = model->head_weight();
  if (!head_weight.is_leaf()) {
    loss += vocab * hidden * element; // formed from its trained rows
  }
  if (head_weight.requires_grad()) {
    loss += vocab * hidden * kWideBytes;
    backward += 2 * vocab * hidden * kWideBytes; // the head's gradient, as formed with the loss and once more scaled
  }
  estimate.temporaries = std::max(loss, backward);
  return estimate;
}

} // namespace rora
