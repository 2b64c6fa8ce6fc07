#pragma once

#include <rora/data/batch.h>
#include <rora/model/causal_lm.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace rora {

/// The largest batch that a run meets.
struct BatchShape {
  int64_t rows = 0;
  int64_t seq = 0; ///< with padding
  int64_t labelled_tokens = 0;
};

/// The batch with the most tokens of the first epoch, padding counted, and the most labelled tokens of any.
BatchShape largest_batch(const std::vector<Example>& examples, const BatchOptions& options);

/// What the layers keep of one kind for their backward.
struct KeptForBackward {
  const char* what = "";
  int64_t bytes = 0; ///< a token that has a label, of all layers; of others, the last layer's MLP keeps nothing
};

/// Bytes of the tensors that training a model will need, by what they hold. A process takes more: LibTorch itself, and
/// pages that the C library's allocator does not give back, most where batches have many lengths (`MemoryBound`).
struct MemoryEstimate {
  int64_t weights = 0; ///< frozen, mapped from the file or not
  int64_t packed = 0; ///< frozen weights once more, as the CPU's products read them; on a GPU the room for A and B
  int64_t trained = 0; ///< trained parameters
  int64_t gradients = 0; ///< as large, and the largest trained weight's once more while it is formed
  int64_t optimizer = 0; ///< the optimiser's state: AdamW's two moments
  int64_t best = 0; ///< the copy of the best parameters, where there is validation
  int64_t activations = 0; ///< what forward keeps for backward: mostly `kept`
  std::vector<KeptForBackward> kept; ///< by kind; without those that are made again in backward
  /// What stands beside them for a while: logits of a chunk of labelled tokens or, if more, a layer's gradients.
  int64_t temporaries = 0;

  /// LibTorch and its libraries, as measured with LibTorch 2.11 on the CPU.
  static constexpr int64_t kProgram = int64_t{370} << 20;

  int64_t total() const {
    return weights + packed + trained + gradients + optimizer + best + activations + temporaries;
  }
  /// What the whole process needs, but for its data.
  int64_t process() const {
    return total() + kProgram;
  }
};

/// For a model whose adapters are attached and whose trained parameters require gradients. Activations are counted from
/// what each operation of a layer keeps for its backward; what a step allocates on the CPU is within 10% of that.
/// That follows from what the layers say of themselves (`CausalLMImpl::layer_memory`). `validation`: whether the best
/// parameters are kept. `optimizer_bytes`: the optimiser's state (`Optimizer::state_bytes`); by default two moments.
MemoryEstimate estimate_memory(
    const CausalLM& model, const BatchShape& batch, bool validation = false,
    std::optional<int64_t> optimizer_bytes = std::nullopt);

} // namespace rora
