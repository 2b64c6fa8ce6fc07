#pragma once

// The CPU's loops behind the ops: plain parameters, no ATen. Each works on items [begin, end) and may run on several
// threads at once; results do not depend on how the items are divided.

#include <kernels/parameters.h>

#include <cstdint>

namespace rora::kernels {

/// Attention of heads that share keys; q, k, v, out and their gradients `[batch, heads, tokens, head_dim]` of any
/// strides, the last dimension dense.
struct AttentionParameters {
  Type type{};
  int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, head_dim = 0;
  double scale = 1.0;
  const int64_t* sequence = nullptr; ///< `[batch, keys]`: as in `AttentionMask`; null where each row is one sequence
  int64_t window = 0; ///< as in `Window`
  int64_t prefix = 0;
  const int64_t* position = nullptr; ///< `[batch, keys]`: by which the window counts; null: by the places of keys
  struct Tensor {
    void* data = nullptr;
    int64_t stride[3] = {}; ///< of batch, heads and tokens
  };
  Tensor q, k, v; ///< read
  Tensor out; ///< written by forward, read by backward
  void* normaliser = nullptr; ///< `[batch, heads, queries]`, wide: log Σ e^score; null: not wanted
  Tensor dout; ///< read by backward
  Tensor dq, dk, dv; ///< written by backward
};

/// C = (scale·Σᵢ Aᵢ·Bᵢ)⊙column_scale, or C + that: Aᵢ `[rows, depthᵢ]`, Bᵢ `[depthᵢ, columns]`. bfloat16 is multiplied
/// in twos, neighbours along the depth: depths are even there, and where rows of bfloat16 run along the depth they
/// begin at multiples of 4 bytes.
struct ProductParameters {
  static constexpr int64_t kMaxPairs = 16;
  static constexpr int64_t kDepthBytes = 8192; ///< of a column of B that is packed at once
  struct Matrix {
    Rows rows;
    Type type{};
    bool transposed = false; ///< `rows` are those of the transpose
  };
  struct Pair {
    Matrix a; ///< read; of `type`
    Matrix b; ///< read; float and bfloat16 are taken for each other
    int64_t depth = 0;
    const void* packed_b = nullptr; ///< b's panels as `pack_panels` wrote them; null: packed as they are needed
  };
  Type type{}; ///< in which A and B are multiplied
  int64_t rows = 0, columns = 0;
  int64_t row_block = 0; ///< rows of an item
  bool rows_first = false; ///< an item is followed by the next panel of its rows, not by the next rows of its panel
  double scale = 1.0;
  const void* column_scale = nullptr; ///< `[columns]`, wide: read; null: 1
  Pair pairs[kMaxPairs];
  int64_t pair_count = 0;
  bool accumulate = false; ///< C is added to
  Matrix c; ///< written; of `type` or the wide one
};

/// The panels of a product's right side, packed once for many products: `depth` rows of each, panel after panel, as
/// many elements as the columns rounded up to whole registers have.
struct PackParameters {
  Type type{}; ///< in which it will be multiplied
  int64_t depth = 0, columns = 0;
  ProductParameters::Matrix matrix; ///< read
  void* packed = nullptr; ///< written
};

/// The kernels as one instruction set gives them. Null: there LibTorch's operations are better.
struct Kernels {
  const char* name = nullptr;
  void (*rms_norm)(const RMSNormParameters&, int64_t begin, int64_t end) = nullptr; ///< items are rows
  void (*rms_norm_backward)(const RMSNormParameters&, int64_t begin, int64_t end) = nullptr;
  void (*swiglu)(const SwiGLUParameters&, int64_t begin, int64_t end) = nullptr; ///< items are rows
  void (*swiglu_backward)(const SwiGLUParameters&, int64_t begin, int64_t end) = nullptr;
  void (*rotary)(const RotaryParameters&, int64_t begin, int64_t end) = nullptr; ///< items are pairs batch·seq
  void (*attention)(const AttentionParameters&, int64_t begin, int64_t end) =
      nullptr; ///< items are pairs batch·kv_heads
  void (*attention_backward)(const AttentionParameters&, int64_t begin, int64_t end) = nullptr;
  void (*cross_entropy)(const CrossEntropyParameters&, int64_t begin, int64_t end) = nullptr; ///< items are rows
  void (*dropout)(const DropoutParameters&, int64_t begin, int64_t end) = nullptr; ///< items are kBlock elements
  void (*column_sum)(const ColumnSumParameters&, int64_t begin, int64_t end) = nullptr; ///< items are kColumns columns
  /// Items are blocks of rows of panels.
  void (*product)(const ProductParameters&, int64_t begin, int64_t end) = nullptr;
  void (*pack_panels)(const PackParameters&, int64_t begin, int64_t end) = nullptr; ///< items are panels
  int64_t (*panel_columns)(Type, int64_t columns) = nullptr; ///< of a panel of a product's result that has `columns`
  int64_t tile_rows = 0; ///< rows that all of its tiles divide
};

/// Those of the best instruction set that both the build and this processor have.
/// RORA_CPU_CAPABILITY=baseline|avx2|avx512 in the environment asks for a lesser one, and amx for products of bfloat16
/// on tiles of the matrix unit; amx_emulated has that unit's instructions as loops, for tests.
const Kernels& kernels();

/// Whether `product` is there and the better one for `type`: a processor with matrix units (AMX) gives bfloat16 to
/// oneDNN, unless RORA_CPU_CAPABILITY=amx asks for tiles of our own.
bool leads_products(Type type);

/// All that can run here, for tests: the best first, and last what is only for who asks for it.
const Kernels* const* all_kernels(int64_t& count);

} // namespace rora::kernels
