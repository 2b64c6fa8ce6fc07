#pragma once

// What the ops' loops read and write, on the CPU (src/ops/cpu) and on a GPU (here): plain pointers, no ATen.

#include <cstdint>
#include <initializer_list>

namespace rora::kernels {

/// Storage types of activations. Sums are formed in float, for double in double.
enum class Type { kFloat, kDouble, kBFloat16 };

/// Rows of `size` numbers, `stride` elements apart.
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
};

struct RMSNormParameters {
  Type type{};
  int64_t size = 0; ///< of a row
  double eps = 0.0;
  Rows x; ///< read
  Rows added; ///< read by forward; data null: none
  Rows sum; ///< x + added rounded, of which the norm is: written where `added` is there
  const void* weight = nullptr; ///< `[size]`, read
  Rows y; ///< written
  void* rstd = nullptr; ///< `[rows]` in the wide type: written by forward, read by backward
  Rows dy; ///< read by backward
  Rows dsum; ///< added to dx before it is rounded: read by backward; data null: none
  Rows dx; ///< written by backward
};

struct SwiGLUParameters {
  Type type{};
  int64_t size = 0;
  Rows gate; ///< read
  Rows up; ///< read
  Rows y; ///< written by forward
  Rows dy; ///< read by backward
  Rows dgate; ///< written by backward
  Rows dup; ///< written by backward
};

/// x `[batch, heads, seq, head_dim]` of any strides, its last dimension dense.
struct RotaryParameters {
  Type type{};
  int64_t heads = 0, seq = 0, head_dim = 0;
  const void* x = nullptr; ///< read; may be y
  int64_t x_stride[3] = {}; ///< of batch, heads and seq
  void* y = nullptr; ///< written
  int64_t y_stride[3] = {};
  const void* cos = nullptr; ///< `[batch or 1, seq, head_dim]`, dense, in x's type; read
  const void* sin = nullptr;
  int64_t table_batch_stride = 0; ///< 0 where all rows share the tables
  bool inverse = false; ///< turns the other way
};

/// Rows of logits, each turned into its gradient softmax − onehot where asked. A row whose target is `kIgnored` has the
/// loss 0 and the gradient 0.
struct CrossEntropyParameters {
  static constexpr int64_t kIgnored = -100; ///< LibTorch's `ignore_index`
  Type type{};
  int64_t vocab = 0;
  Rows logits; ///< read, and written where `gradient` is set
  const int64_t* targets = nullptr; ///< `[rows]`
  void* losses = nullptr; ///< `[rows]`, wide: written
  bool gradient = false;
};

/// y = x with elements dropped or divided by 1 − p, as `ops::Dropout` says of the flattened tensor.
struct DropoutParameters {
  static constexpr int64_t kBlock = 4096; ///< elements of an item
  Type type{};
  int64_t count = 0;
  double p = 0.0;
  uint64_t seed = 0;
  const void* x = nullptr; ///< read
  void* y = nullptr; ///< written
};

/// Σ over rows of a⊙b, by column; a GPU may write a⊙scale in the same pass, or that alone.
struct ColumnSumParameters {
  static constexpr int64_t kColumns = 64; ///< columns of an item
  static constexpr int64_t kRowsOfPart = 128; ///< whose sums a GPU forms at once
  static int64_t parts(int64_t rows) {
    return (rows + kRowsOfPart - 1) / kRowsOfPart;
  }
  Type type{};
  int64_t rows = 0, columns = 0;
  Rows a; ///< read
  Rows b; ///< read; a GPU forms no sums without it
  void* sums = nullptr; ///< `[columns]`, wide: written
  float* part_sums = nullptr; ///< `[parts(rows), columns]`, a GPU's workspace: may be null for one part or none
  const float* scale = nullptr; ///< `[columns]`, read; null: nothing is scaled
  Rows scaled; ///< a⊙scale, written: may be a
};

/// ‖W + s·B·A‖ of rows, as `ops::dora_norm` expands it. No kernel of the CPU.
struct DoRANormParameters {
  Type type{}; ///< of B
  int64_t rank = 0;
  double scale = 1.0;
  const float* weight_norm_squared = nullptr; ///< `[rows]`, read
  const float* product = nullptr; ///< W·Aᵀ `[rows, rank]`, read
  int64_t product_stride[2] = {};
  Rows b; ///< `[rows, rank]`, read
  const float* gram = nullptr; ///< A·Aᵀ `[rank, rank]`, dense, read
  float* norm = nullptr; ///< `[rows]`, written
};

/// The gradient of DoRA's magnitude, of those outputs whose magnitude is 0. No kernel of the CPU.
struct ZeroMagnitudeParameters {
  Type type{};
  int64_t rows = 0, depth = 0, rank = 0;
  Rows dy; ///< `[rows, columns]`, read
  Rows x; ///< `[rows, depth]`, read
  Rows weight; ///< `[columns, depth]`, read
  Rows shrunk; ///< `[rows, rank]`, read
  Rows b; ///< `[columns, rank]` in float, read
  const float* magnitude = nullptr; ///< `[columns]`, read
  const float* norm = nullptr; ///< `[columns]`, read
  float* gradient = nullptr; ///< `[columns]`, written where the magnitude is 0
};

/// Copies of matrices, rounded to another type, with zeros to the right and below. No kernel of the CPU.
struct PaddedCopyParameters {
  static constexpr int kMost = 16; ///< matrices of a launch
  struct Matrix {
    Type from_type{}, to_type{}; ///< kFloat or kBFloat16
    int64_t rows = 0, columns = 0; ///< of `from`
    Rows from; ///< read
    int64_t to_rows = 0, to_columns = 0; ///< no fewer
    Rows to; ///< written
  };
  Matrix matrices[kMost];
  int count = 0;
};

/// Sums of partial sums in their order: result = scale·Σₛ partial[s], element by element, of up to two results.
struct PartialSumsParameters {
  struct Result {
    const float* partial = nullptr; ///< `[parts, count]`: read
    int64_t parts = 0, count = 0;
    double scale = 1.0;
    Type type{}; ///< kFloat or kBFloat16
    void* data = nullptr; ///< `[count]`: written
    int64_t width = 0; ///< of the result's rows where these lie apart; 0: it is dense
    int64_t stride = 0; ///< of those rows
  };
  Result results[2];
};

/// What the kernels of the low-rank products have in common. Work is divided for the 132 SMs of an H200 whatever GPU
/// there is: the order of sums does not depend on it.
struct LowRankProducts {
  static constexpr int64_t kMostRank = 128;
  static constexpr int64_t kSMs = 132;

  /// `rank` rounded up to what there is a kernel of.
  static constexpr int64_t kernel_rank(int64_t rank) {
    return rank <= 16 ? 16 : rank <= 32 ? 32 : rank <= 64 ? 64 : 128;
  }
};

/// shrunk `[rows, rank]` = scale·drop(x)·Aᵀ.
struct LowRankShrinkParameters {
  static constexpr int64_t kRows = 64; ///< of a block
  Type type{}; ///< of x and shrunk
  Type a_type{}; ///< `type` or kFloat
  int64_t rows = 0, columns = 0, rank = 0;
  double scale = 1.0;
  double p = 0.0; ///< of dropout
  uint64_t seed = 0;
  Rows x; ///< `[rows, columns]`: read
  Rows a; ///< `[rank, columns]`: read
  int64_t parts = 1; ///< into which the columns are divided
  void* shrunk = nullptr; ///< dense; written where there is one part
  float* partial = nullptr; ///< `[parts, rows, rank]`; written where there are more, without the scale

  /// Parts that give every SM a block where the rows alone do not.
  static constexpr int64_t parts_for(int64_t rows, int64_t columns) {
    constexpr int64_t kFewestColumns = 512;
    const int64_t blocks = (rows + kRows - 1) / kRows;
    if (blocks == 0 || 2 * blocks > LowRankProducts::kSMs) {
      return 1;
    }
    const int64_t wanted = LowRankProducts::kSMs / blocks, most = (columns + kFewestColumns - 1) / kFewestColumns;
    return wanted < most ? wanted : most > 0 ? most : 1;
  }
};

/// The norm of `RMSNormParameters` and shrunk `[rows, rank]` = scale·y·Aᵀ of the y that it writes, in bfloat16 and
/// without dropout. No kernel of the CPU.
struct RMSNormShrinkParameters {
  static constexpr int64_t kMostRank = 64;
  static constexpr int64_t kGroup = 8; ///< rows that the sizes of a tile differ by
  static constexpr int64_t kFewestGroups = 2, kMostGroups = 3; ///< of a tile
  static constexpr int64_t kWarps = 8; ///< of a block, each with a share of the columns
  static constexpr int64_t kColumnsOfStep = 32; ///< of a warp
  RMSNormParameters norm; ///< of the forward
  int64_t rows = 0, rank = 0;
  double scale = 1.0;
  Rows a; ///< `[rank, norm.size]`: read
  Rows shrunk; ///< written

  /// Whether all rows are whole accesses of 16 bytes.
  bool fits() const {
    constexpr int64_t kBytes = 16, kNumbers = 8;
    bool whole = norm.type == Type::kBFloat16 && norm.size % kNumbers == 0;
    for (const Rows& each : {norm.x, norm.added, norm.sum, norm.y, a, Rows{const_cast<void*>(norm.weight), 0}}) {
      whole = whole && reinterpret_cast<uintptr_t>(each.data) % kBytes == 0 && each.stride % kNumbers == 0;
    }
    return whole;
  }

  static constexpr int64_t kernel_rank(int64_t rank) {
    return (rank + 15) / 16 * 16;
  }
  static constexpr int64_t steps_of_warp(int64_t size) {
    return (size + kColumnsOfStep * kWarps - 1) / (kColumnsOfStep * kWarps);
  }
  /// Bytes of a block's shared memory: its rows, the sums of half its warps, and the squares that each warp found.
  static constexpr int64_t rows_bytes(int64_t size, int64_t groups) {
    return groups * kGroup * steps_of_warp(size) * kWarps * kColumnsOfStep * 2;
  }
  static constexpr int64_t sums_bytes(int64_t rank, int64_t groups) {
    return kWarps / 2 * groups * kGroup * kernel_rank(rank) * 4;
  }
  static constexpr int64_t shared_bytes(int64_t size, int64_t rank, int64_t groups) {
    return rows_bytes(size, groups) + sums_bytes(rank, groups) + kWarps * groups * kGroup * 4;
  }

  /// Groups of rows of a tile where a block may have `most_shared` bytes; 0 where the two kernels by themselves do
  /// better. A is read once a tile, from the cache: with more than 3 ranks a row of it, that takes longer than reading
  /// y again. Where the rows do not give every SM a tile, the low-rank kernel, which divides the columns, does.
  static constexpr int64_t groups_for(int64_t rows, int64_t size, int64_t rank, int64_t most_shared) {
    int64_t found = 0;
    for (int64_t groups = kFewestGroups; groups <= kMostGroups; ++groups) {
      const bool fills = (rows + groups * kGroup - 1) / (groups * kGroup) >= LowRankProducts::kSMs;
      if (rank > 0 && rank <= kMostRank && rank <= 3 * groups * kGroup && fills && size > 0 &&
          shared_bytes(size, rank, groups) <= most_shared) {
        found = groups;
      }
    }
    return found;
  }
};

/// The gradients of a low-rank product from one pass over `wide` `[rows, columns]`, dy or x: wideᵀ·thin `[columns,
/// rank]` and wide·B `[rows, rank]`, as partial sums.
struct LowRankGradientParameters {
  static constexpr int64_t kRows = 16; ///< a part's rows are a multiple of them
  /// Beyond it, the partial sums of `dshrunk` are more than a second pass over `wide` would be.
  static constexpr int64_t kMostRankInOnePass = 64;
  Type type{}; ///< of wide and thin
  Type b_type{}; ///< `type` or kFloat
  int64_t rows = 0, columns = 0, rank = 0;
  double p = 0.0; ///< of wide's dropout
  uint64_t seed = 0;
  Rows wide; ///< read
  Rows thin; ///< `[rows, rank]`: read where `gradient` is wanted
  Rows b; ///< `[columns, rank]`: read where `dshrunk` is wanted
  int64_t parts = 1; ///< into which the rows are divided
  float* gradient = nullptr; ///< `[parts, columns, rank]`: written; null: not wanted
  bool transposed = false; ///< `gradient` is `[parts, rank, columns]`
  float* dshrunk = nullptr; ///< `[strips, rows, rank]`: written; null: not wanted

  /// Columns that a block owns.
  static constexpr int64_t strip(int64_t rank) {
    const int64_t of_kernel = LowRankProducts::kernel_rank(rank);
    return of_kernel == 16 ? 512 : of_kernel == 128 ? 128 : 256;
  }
  static constexpr int64_t strips(int64_t columns, int64_t rank) {
    return (columns + strip(rank) - 1) / strip(rank);
  }
  static constexpr int64_t parts_for(int64_t rows, int64_t columns, int64_t rank) {
    constexpr int64_t kFewestRows = 128;
    const int64_t across = strips(columns, rank);
    const int64_t blocks = LowRankProducts::kernel_rank(rank) > 32 ? LowRankProducts::kSMs : 2 * LowRankProducts::kSMs;
    const int64_t wanted = across > 0 ? blocks / across : 1;
    const int64_t most = (rows + kFewestRows - 1) / kFewestRows;
    const int64_t parts = wanted < most ? wanted : most;
    return parts > 0 ? parts : 1;
  }
};

/// dx `[rows, columns]` += drop(dshrunk·A).
struct LowRankGradientXParameters {
  Type type{}; ///< of dshrunk and dx
  Type a_type{}; ///< `type` or kFloat
  int64_t rows = 0, columns = 0, rank = 0;
  double p = 0.0; ///< of dropout
  uint64_t seed = 0;
  Rows dshrunk; ///< `[rows, rank]`: read
  Rows a; ///< `[rank, columns]`: read
  Rows dx; ///< read and written
};

} // namespace rora::kernels
