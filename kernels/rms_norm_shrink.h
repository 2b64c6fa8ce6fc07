#pragma once

#include "matrix.h"
#include "parameters.h"
#include "rows.h"

namespace rora::kernels::cuda {

/// y = h·rstd⊙weight as `RMSNorm` writes it, h = x + added or x, and shrunk = scale·y·Aᵀ of the rounded y, for ranks up
/// to `Rank`, in bfloat16; the parameters must fit. A block takes tiles of 8·`Groups` rows in turn, one a round of the
/// grid, and its warps divide the columns. A tile's h stays in shared memory between the two passes over it: each
/// thread reads back there what it has put there itself, and as soon as it has, begins to fetch the next tile's x into
/// the same place. Reads x and added once, weight and A once a tile (from the cache); writes (`=`) y, rstd, shrunk and,
/// with `added`, h as `sum`.
///
/// The tensor cores take y and A as the threads hold them: a sum does not care in which order its terms come, so eight
/// neighbours that one access brings are four pairs of two products.
template <int Rank, int Groups>
struct RMSNormShrink {
  using T = BFloat16;
  static constexpr int kWarps = static_cast<int>(RMSNormShrinkParameters::kWarps);
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksOfSM = 1;
  static constexpr int kRows = Groups * static_cast<int>(RMSNormShrinkParameters::kGroup);
  RMSNormShrinkParameters p;
  int steps; ///< of a warp
  int64_t tiles, blocks;
  int64_t sums_at, squares_at; ///< where they begin in shared memory

  /// `most_blocks` is how many the GPU runs at once: what they write does not depend on it.
  RMSNormShrink(const RMSNormShrinkParameters& p, int64_t most_blocks)
      : p(p),
        steps(static_cast<int>(RMSNormShrinkParameters::steps_of_warp(p.norm.size))),
        tiles(divide_up(p.rows, kRows)),
        blocks(tiles < most_blocks ? tiles : most_blocks),
        sums_at(RMSNormShrinkParameters::rows_bytes(p.norm.size, Groups)),
        squares_at(sums_at + RMSNormShrinkParameters::sums_bytes(Rank, Groups)) {}

  Geometry geometry() const {
    return {blocks, 1, RMSNormShrinkParameters::shared_bytes(p.norm.size, Rank, Groups)};
  }

  RORA_DEVICE void operator()() const {
    for (int step = 0; step < steps; ++step) {
      RORA_UNROLL
      for (int group = 0; group < Groups; ++group) {
        bring(own_row(block_x()), group, step);
      }
    }
    commit_copies();
    for (int64_t tile = block_x(); tile < tiles; tile += blocks) {
      float rstd[Groups];
      find_norm(own_row(tile), rstd);
      float sum[Rank / 16][Groups][4] = {};
      multiply(tile, rstd, sum);
      add_up(sum);
      if (warp_index() == 0) {
        write_shrunk(tile * kRows, sum);
      }
    }
  }

 private:
  using Words = Packet<uint32_t>; ///< eight numbers, in twos
  /// What a step takes of `weight` and of A: of A, this lane has row lane / 4 of each eight.
  struct Right {
    Words weight, a[Rank / 8];
  };

  /// Of a tile's rows, a lane has number lane / 4 of each group.
  RORA_DEVICE static int64_t own_row(int64_t tile) {
    return tile * kRows + lane_index() / 4;
  }
  /// The first of this lane's eight columns.
  RORA_DEVICE int64_t own_column(int step) const {
    constexpr int kColumns = static_cast<int>(RMSNormShrinkParameters::kColumnsOfStep);
    return int64_t{warp_index() * steps + step} * kColumns + lane_index() % 4 * 8;
  }
  RORA_DEVICE bool inside(int64_t row, int64_t column) const {
    return row < p.rows && column < p.norm.size;
  }
  template <class Number>
  RORA_DEVICE static Number* at(const Rows& rows, int64_t row, int64_t column) {
    return static_cast<Number*>(rows.data) + row * rows.stride + column;
  }
  /// This thread's own place.
  RORA_DEVICE static Words* place(int group, int step) {
    return reinterpret_cast<Words*>(shared_memory()) + (step * Groups + group) * kThreads + thread_index();
  }
  RORA_DEVICE float* sums() const {
    return reinterpret_cast<float*>(shared_memory() + sums_at);
  }
  RORA_DEVICE float* squares() const {
    return reinterpret_cast<float*>(shared_memory() + squares_at);
  }

  RORA_DEVICE static float low(uint32_t two) {
    return bits_to_float(two << 16);
  }
  RORA_DEVICE static float high(uint32_t two) {
    return bits_to_float(two & 0xFFFF0000u);
  }

  /// Begins to fetch x, zeros outside of it, and tells the cache of `added`.
  RORA_DEVICE void bring(int64_t first, int group, int step) const {
    const int64_t row = first + group * 8, column = own_column(step);
    const bool is_inside = inside(row, column);
    copy_later(place(group, step), is_inside ? at<T>(p.norm.x, row, column) : p.norm.x.data, is_inside ? 16 : 0);
    if (p.norm.added.data != nullptr && is_inside) {
      prefetch(at<T>(p.norm.added, row, column));
    }
  }

  /// rstd of this lane's rows, from `first` on; leaves h in their place.
  RORA_DEVICE void find_norm(int64_t first, float (&rstd)[Groups]) const {
    float own[Groups] = {};
    wait_for_copies<0>();
    if (p.norm.added.data == nullptr) {
      for (int step = 0; step < steps; ++step) {
        RORA_UNROLL
        for (int group = 0; group < Groups; ++group) {
          add_squares(*place(group, step), own[group]);
        }
      }
    } else {
      Words added[Groups];
      fetch_added(first, 0, added);
      for (int step = 0; step < steps; ++step) {
        Words next[Groups];
        fetch_added(first, step + 1, next);
        RORA_UNROLL
        for (int group = 0; group < Groups; ++group) {
          const int64_t row = first + group * 8, column = own_column(step);
          Words h = *place(group, step);
          RORA_UNROLL
          for (int i = 0; i < 4; ++i) {
            const uint32_t two = added[group].value[i];
            h.value[i] = rounded_pair(low(h.value[i]) + low(two), high(h.value[i]) + high(two));
          }
          *place(group, step) = h;
          if (inside(row, column)) {
            store_16_bytes(h, at<T>(p.norm.sum, row, column));
          }
          add_squares(h, own[group]);
          added[group] = next[group];
        }
      }
    }
    RORA_UNROLL
    for (int group = 0; group < Groups; ++group) {
      own[group] += shuffle_xor(own[group], 1);
      own[group] += shuffle_xor(own[group], 2);
      if (lane_index() % 4 == 0) {
        squares()[warp_index() * kRows + group * 8 + lane_index() / 4] = own[group];
      }
    }
    sync_block();
    RORA_UNROLL
    for (int group = 0; group < Groups; ++group) {
      float sum = 0.0f;
      RORA_UNROLL
      for (int warp = 0; warp < kWarps; ++warp) {
        sum += squares()[warp * kRows + group * 8 + lane_index() / 4];
      }
      rstd[group] = reciprocal_root(sum / static_cast<float>(p.norm.size) + static_cast<float>(p.norm.eps));
      const int64_t row = first + group * 8;
      if (warp_index() == 0 && lane_index() % 4 == 0 && row < p.rows) {
        static_cast<float*>(p.norm.rstd)[row] = rstd[group];
      }
    }
  }

  RORA_DEVICE void fetch_added(int64_t first, int step, Words (&added)[Groups]) const {
    RORA_UNROLL
    for (int group = 0; group < Groups; ++group) {
      const int64_t row = first + group * 8, column = own_column(step);
      added[group] =
          step < steps && inside(row, column) ? load_16_bytes<Words>(at<T>(p.norm.added, row, column)) : Words{};
    }
  }

  RORA_DEVICE static void add_squares(const Words& h, float& sum) {
    RORA_UNROLL
    for (const uint32_t two : h.value) {
      sum += low(two) * low(two);
      sum += high(two) * high(two);
    }
  }

  /// Writes y of a tile and adds y·Aᵀ of this warp's columns to `sum`, as its transpose: sum[i][j] is of ranks 16i and
  /// rows 8j on, as `multiply_matrices` holds it.
  RORA_DEVICE void multiply(int64_t tile, const float (&rstd)[Groups], float (&sum)[Rank / 16][Groups][4]) const {
    Right right = fetch_right(0);
    RORA_NO_UNROLL
    for (int step = 0; step < steps; ++step) {
      const Right next = fetch_right(step + 1);
      RORA_UNROLL
      for (int group = 0; group < Groups; ++group) {
        Words y = *place(group, step);
        RORA_UNROLL
        for (int i = 0; i < 4; ++i) {
          const uint32_t normed = rounded_pair(low(y.value[i]) * rstd[group], high(y.value[i]) * rstd[group]);
          const uint32_t weight = right.weight.value[i];
          y.value[i] = rounded_pair(low(normed) * low(weight), high(normed) * high(weight));
        }
        const int64_t row = own_row(tile) + group * 8, column = own_column(step);
        if (inside(row, column)) {
          store_16_bytes(y, at<T>(p.norm.y, row, column));
        }
        if (tile + blocks < tiles) {
          bring(own_row(tile + blocks), group, step);
        }
        RORA_UNROLL
        for (int half = 0; half < 4; half += 2) {
          const uint32_t of_y[2] = {y.value[half], y.value[half + 1]};
          RORA_UNROLL
          for (int i = 0; i < Rank / 16; ++i) {
            const Words &upper = right.a[2 * i], &lower = right.a[2 * i + 1];
            const uint32_t of_a[4] = {
                upper.value[half], lower.value[half], upper.value[half + 1], lower.value[half + 1]};
            multiply_matrices(sum[i][group], of_a, of_y);
          }
        }
      }
      right = next;
    }
    commit_copies();
  }

  /// Zeros outside.
  RORA_DEVICE Right fetch_right(int step) const {
    const int64_t column = own_column(step);
    const bool is_inside = step < steps && column < p.norm.size;
    Right right;
    right.weight = is_inside ? load_16_bytes<Words>(static_cast<const T*>(p.norm.weight) + column) : Words{};
    RORA_UNROLL
    for (int i = 0; i < Rank / 8; ++i) {
      const int64_t rank = 8 * i + lane_index() / 4;
      right.a[i] = is_inside && rank < p.rank ? load_16_bytes<Words>(at<T>(p.a, rank, column)) : Words{};
    }
    return right;
  }

  /// Leaves the sum of all warps' with the first, half of them giving theirs to the others at a time. A warp writes
  /// only where it was itself the last to read.
  RORA_DEVICE void add_up(float (&sum)[Rank / 16][Groups][4]) const {
    constexpr int kNumbers = Rank / 16 * Groups * 4;
    RORA_UNROLL
    for (int half = kWarps / 2; half > 0; half /= 2) {
      const bool gives = warp_index() >= half && warp_index() < 2 * half;
      const int giver = gives ? warp_index() : warp_index() + half;
      float* const numbers = sums() + giver % (kWarps / 2) * kNumbers * kWarp + lane_index();
      if (gives) {
        for_each(sum, [&](int i, float& number) { numbers[i * kWarp] = number; });
      }
      sync_block();
      if (warp_index() < half) {
        for_each(sum, [&](int i, float& number) { number += numbers[i * kWarp]; });
      }
    }
  }
  template <class F>
  RORA_DEVICE static void for_each(float (&sum)[Rank / 16][Groups][4], F f) {
    RORA_UNROLL
    for (int i = 0; i < Rank / 16 * Groups * 4; ++i) {
      f(i, sum[i / 4 / Groups][i / 4 % Groups][i % 4]);
    }
  }

  RORA_DEVICE void write_shrunk(int64_t first, float (&sum)[Rank / 16][Groups][4]) const {
    for_each(sum, [&](int i, float& number) {
      const int64_t row = first + i / 4 % Groups * 8 + lane_index() % 4 * 2 + i % 2;
      const int64_t rank = i / 4 / Groups * 16 + i % 4 / 2 * 8 + lane_index() / 4;
      if (row < p.rows && rank < p.rank) {
        static_cast<T*>(p.shrunk.data)[row * p.shrunk.stride + rank] = rounded<T>(number * static_cast<float>(p.scale));
      }
    });
  }
};

} // namespace rora::kernels::cuda
