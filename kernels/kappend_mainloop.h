#pragma once

// The main loop of the K-append product, over one of CUTLASS's for Hopper.

#include "gemm_kappend.h"

#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>

#include <cstdint>
#include <utility>

namespace rora::kernels::cuda {

/// A CUTLASS collective (`CollectiveMma` on `MainloopSm90TmaGmmaWarpSpecialized`) whose producer goes on from one pair
/// of matrices to another of the same kind.
///
/// To the kernel around it, the depth of the problem is `KTiles::count()` whole steps: from that the producer, the
/// consumers and the tile scheduler derive their counts of steps. The consumers cannot tell the pairs apart: the steps
/// of both fill the stages of one pipeline, in the same layout and number of bytes. Only the descriptors know how deep
/// each pair truly is, and the copies fill up with zeros what lies beyond.
template <class Collective>
struct KAppendMainloop : Collective {
  using typename Collective::MainloopPipeline;
  using typename Collective::PipelineState;
  using typename Collective::TensorStorage;
  using CollectiveArguments = typename Collective::Arguments;
  using CollectiveParams = typename Collective::Params;

  static_assert(cute::size<2>(typename Collective::TileShape{}) == kKTile);
  /// Coordinates are of the type alone, so that those of one pair's tiles are those of the other's.
  template <class Copy>
  static constexpr bool kIsStatic =
      cute::is_static_v<decltype(cute::stride(std::declval<Copy>().get_tma_tensor(cute::Shape<int, int, int>())))>;
  static_assert(kIsStatic<typename CollectiveParams::TMA_A> && kIsStatic<typename CollectiveParams::TMA_B>);

  struct Arguments {
    CollectiveArguments deep;
    CollectiveArguments thin;
    int depth = 0, rank = 0;
  };

  /// The descriptors of both pairs stay where the kernel's parameters are: the hardware reads them by their address.
  struct Params : CollectiveParams {
    CollectiveParams thin;
    KTiles tiles;
  };

  template <class ProblemShape>
  static Params to_underlying_arguments(const ProblemShape& problem, const Arguments& arguments, void* workspace) {
    const auto of_depth = [&](int depth) { return cute::replace<2>(problem, depth); };
    return {
        Collective::to_underlying_arguments(of_depth(arguments.depth), arguments.deep, workspace),
        Collective::to_underlying_arguments(of_depth(arguments.rank), arguments.thin, workspace),
        KTiles::of(arguments.depth, arguments.rank)};
  }

  template <class ProblemShape>
  static bool can_implement(const ProblemShape& problem, const Arguments& arguments) {
    return cute::get<2>(problem) == KTiles::of(arguments.depth, arguments.rank).count() * kKTile &&
        Collective::can_implement(problem, arguments.deep) && Collective::can_implement(problem, arguments.thin);
  }

  CUTLASS_DEVICE static void prefetch_tma_descriptors(const Params& params) {
    Collective::prefetch_tma_descriptors(params);
    Collective::prefetch_tma_descriptors(params.thin);
  }

  /// `inputs` are coordinates of tiles, the same for both pairs: what lies there is the descriptors' matter.
  template <class Inputs, class BlockCoordinate, class KTileIterator>
  CUTLASS_DEVICE void load(
      const Params& params, MainloopPipeline pipeline, PipelineState stage, const Inputs& inputs,
      const BlockCoordinate& block, KTileIterator step, int count, int thread, uint32_t block_rank_in_cluster,
      TensorStorage& shared) {
    const int begin = *step;
    const KTileSpan deep = params.tiles.deep_part(begin, count), thin = params.tiles.thin_part(begin, count);
    Collective::load(params, pipeline, stage, inputs, block, step, deep.count, thread, block_rank_in_cluster, shared);
    stage.advance(deep.count);
    const auto steps = cute::shape<3>(cute::get<0>(inputs));
    Collective::load(
        params.thin, pipeline, stage, inputs, block, cute::make_coord_iterator(thin.begin, steps), thin.count, thread,
        block_rank_in_cluster, shared);
  }
};

} // namespace rora::kernels::cuda
