#include "gemm_kappend_sm90.h"
#include "kappend_mainloop.h"

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include <type_traits>

// What nvcc 13.0 makes of the four products (W by rows or by columns alike) for sm_90a, without CUTLASS's own checks:
//
//   tile     | schedule    | stages | shared memory | registers | spilled
//   128x128  | ping-pong   | 6      | 209 KiB       | 168       | 0
//   128x256  | cooperative | 4      | 225 KiB       | 168       | 0
//
// The registers are those a thread has at the start; the groups of warps then divide them up anew.

namespace rora::kernels::cuda {
namespace {

using Element = cutlass::bfloat16_t;
using ByRows = cutlass::layout::RowMajor;
using ByColumns = cutlass::layout::ColumnMajor;
using ProblemShape = cute::Shape<int, int, int, int>;
using Cluster = cute::Shape<cute::Int<kBlocksOfCluster>, cute::_1, cute::_1>;
template <KAppendTile tile>
using TileShape = cute::Shape<cute::Int<tile_rows(tile)>, cute::Int<tile_columns(tile)>, cute::Int<kKTile>>;

struct Tile128x128 {
  using Shape = TileShape<KAppendTile::k128x128>;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecialized;
};
struct Tile128x256 {
  using Shape = TileShape<KAppendTile::k128x256>;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecializedCooperative;
};

template <class Tile>
using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Tile::Shape, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element, ByRows, kTileCopyElements, Element, ByRows,
    kTileCopyElements, typename Tile::EpilogueSchedule>::CollectiveOp;

/// W by rows of `[depth, columns]`, or by columns, which are rows of `[columns, depth]`.
template <class Tile, bool transposed>
using Mainloop = KAppendMainloop<typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, ByRows, kTileCopyElements, Element,
    std::conditional_t<transposed, ByColumns, ByRows>, kTileCopyElements, float, typename Tile::Shape, Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue<Tile>::SharedStorage))>,
    typename Tile::Schedule>::CollectiveOp>;

template <class Tile, bool transposed>
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<cutlass::gemm::kernel::GemmUniversal<
    ProblemShape, Mainloop<Tile, transposed>, Epilogue<Tile>, cutlass::gemm::PersistentScheduler>>;

const Element* elements(const Rows& rows) {
  return static_cast<const Element*>(rows.data);
}

/// The stride of rows, whichever of its two dimensions is the dense one.
template <class Stride>
Stride stride_of(const Rows& rows) {
  Stride stride{};
  if constexpr (cute::is_static_v<decltype(cute::get<0>(stride))>) {
    cute::get<1>(stride) = rows.stride;
  } else {
    cute::get<0>(stride) = rows.stride;
  }
  return stride;
}

template <class Gemm>
typename Gemm::Arguments arguments_of(const KAppendParameters& p) {
  using Kernel = typename Gemm::GemmKernel;
  using StrideA = typename Kernel::StrideA;
  using StrideB = typename Kernel::StrideB;
  typename Gemm::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = ProblemShape{
      static_cast<int>(p.rows), static_cast<int>(p.columns), KTiles::of(p.depth, p.rank).count() * kKTile, 1};
  auto& mainloop = arguments.mainloop;
  mainloop.deep = {elements(p.x), stride_of<StrideA>(p.x), elements(p.w), stride_of<StrideB>(p.w)};
  mainloop.thin = {elements(p.s), stride_of<StrideA>(p.s), elements(p.b), stride_of<StrideB>(p.b)};
  mainloop.depth = static_cast<int>(p.depth);
  mainloop.rank = static_cast<int>(p.rank);
  arguments.scheduler.max_swizzle_size = band_width(p.rows, p.columns, p.tile);
  auto& epilogue = arguments.epilogue;
  const Rows& c = p.beta == 0.0f ? p.y : p.c; // a descriptor of C is made even where C is not read
  epilogue.thread.alpha = p.alpha;
  epilogue.thread.beta = p.beta;
  epilogue.ptr_C = elements(c);
  epilogue.dC = stride_of<typename Kernel::StrideC>(c);
  epilogue.ptr_D = static_cast<Element*>(p.y.data);
  epilogue.dD = stride_of<typename Kernel::StrideD>(p.y);
  return arguments;
}

/// f with the product of the parameters' tile and layout.
template <class F>
auto with_gemm(const KAppendParameters& p, const F& f) {
  if (p.tile == KAppendTile::k128x128) {
    return p.transposed ? f(Gemm<Tile128x128, true>()) : f(Gemm<Tile128x128, false>());
  }
  return p.transposed ? f(Gemm<Tile128x256, true>()) : f(Gemm<Tile128x256, false>());
}

} // namespace

bool has_kappend(int device) {
  int major = 0, minor = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
      minor == 0;
}

bool fits(const KAppendParameters& p, int device) {
  return suits_kappend(p) && has_kappend(device);
}

int64_t kappend_workspace_bytes(const KAppendParameters& p) {
  return with_gemm(
      p, [&](auto gemm) { return static_cast<int64_t>(gemm.get_workspace_size(arguments_of<decltype(gemm)>(p))); });
}

cudaError_t gemm_kappend(const KAppendParameters& p, void* workspace, cudaStream_t stream) {
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) {
    return error;
  }
  return with_gemm(p, [&](auto gemm) {
    auto arguments = arguments_of<decltype(gemm)>(p);
    arguments.hw_info.device_id = device;
    arguments.hw_info.sm_count = processors;
    if (gemm.can_implement(arguments) != cutlass::Status::kSuccess) {
      return cudaErrorInvalidValue;
    }
    return gemm.run(arguments, workspace, stream) == cutlass::Status::kSuccess ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

} // namespace rora::kernels::cuda
