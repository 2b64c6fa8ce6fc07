#include "low_rank_products.h"

#include "../launch.h"

#include <rora/core/low_rank_products.h>

#include <ATen/ATen.h>

#if defined(RORA_HAS_CUDA)
#include "trial.h"

#include <kernels/kernels.h>

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdlib>
#include <string_view>
#include <vector>
#endif

namespace rora::ops::detail {
namespace {

using kernels::LowRankGradientParameters;
using kernels::LowRankGradientXParameters;
using kernels::LowRankProducts;
using kernels::LowRankShrinkParameters;
using kernels::PartialSumsParameters;

bool is_known(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16;
}

/// Whether the kernels take `activation` and `other`, whose dtype is the activation's or float, and none of their sizes
/// is 0 but that of the rows. What needs a gradient goes to the reference, which refuses it.
bool can_take(const at::Tensor& activation, const at::Tensor& other, int64_t rank, int64_t most_rank) {
  const bool recorded = at::GradMode::is_enabled() && (activation.requires_grad() || other.requires_grad());
  return activation.dim() == 2 && other.dim() == 2 && is_known(activation.scalar_type()) &&
      (other.scalar_type() == activation.scalar_type() || other.scalar_type() == at::kFloat) &&
      activation.device() == other.device() && activation.size(1) > 0 && rank > 0 && rank <= most_rank && !recorded;
}

at::Tensor workspace(at::IntArrayRef sizes, const at::Tensor& on) {
  return at::empty(sizes, on.options().dtype(at::kFloat));
}

/// `to` = scale·Σ `partial` over its first dimension; `to` is dense, or a matrix of dense rows.
PartialSumsParameters::Result sum_of(const at::Tensor& partial, double scale, const at::Tensor& to) {
  PartialSumsParameters::Result result;
  result.partial = partial.const_data_ptr<float>();
  result.parts = partial.size(0);
  result.count = to.numel();
  result.scale = scale;
  result.type = kernel_type(to);
  result.data = to.data_ptr();
  if (!to.is_contiguous()) {
    result.width = to.size(1);
    result.stride = to.stride(0);
  }
  return result;
}

ThinShape thin_shape(ThinPass pass, const at::Tensor& activation, int64_t rank, bool in_part = false) {
  const int64_t rows = activation.size(0) > 0 ? power_of_two_from(activation.size(0)) : 0;
  const bool in_bfloat16 = activation.scalar_type() == at::kBFloat16;
  return {pass, rows, activation.size(1), rank, in_bfloat16, in_part, activation.get_device()};
}

/// What `by_kernel` gives, or `by_products` where that is to be preferred. Both return the same kind of result.
template <class Kernel, class Products>
auto run_faster(
    const LowRankKernels& kernels, const ThinShape& shape, const Kernel& by_kernel, const Products& by_products) {
  const bool products = kernels.prefers_products != nullptr && shape.rows > 0 &&
      kernels.prefers_products(
          shape, [&] { by_kernel(); }, [&] { by_products(); });
  return products ? by_products() : by_kernel();
}

at::Tensor shrink_by_kernel(
    const LowRankKernels& kernels, const at::Tensor& x, const at::Tensor& a, double scale, double p, int64_t seed) {
  const at::Tensor rows = as_rows(x), rows_of_a = as_rows(a);
  at::Tensor shrunk = at::empty({x.size(0), a.size(0)}, x.options());
  LowRankShrinkParameters parameters;
  parameters.type = kernel_type(x);
  parameters.a_type = kernel_type(a);
  parameters.rows = x.size(0);
  parameters.columns = x.size(1);
  parameters.rank = a.size(0);
  parameters.scale = scale;
  parameters.p = p;
  parameters.seed = static_cast<uint64_t>(seed);
  parameters.x = kernel_rows(rows);
  parameters.a = kernel_rows(rows_of_a);
  parameters.parts = LowRankShrinkParameters::parts_for(parameters.rows, parameters.columns);
  parameters.shrunk = shrunk.data_ptr();
  at::Tensor partial;
  if (parameters.parts > 1) {
    partial = workspace({parameters.parts, x.size(0), a.size(0)}, x);
    parameters.partial = partial.data_ptr<float>();
  }
  kernels.shrink(parameters);
  if (partial.defined()) {
    PartialSumsParameters sums;
    sums.results[0] = sum_of(partial, scale, shrunk);
    kernels.partial_sums(sums);
  }
  return shrunk;
}

at::Tensor gradients_of_dy_by_products(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask,
    at::Tensor& dshrunk) {
  at::Tensor db;
  reference::write_low_rank_gradient_b(dy, shrunk, b, scale, mask, dshrunk, db);
  return db;
}

/// In one pass over dy, of sizes and dtypes that the kernel takes.
at::Tensor gradients_of_dy_by_kernel(
    const LowRankKernels& kernels, const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale,
    std::array<bool, 2> mask, at::Tensor& dshrunk) {
  const at::Tensor wide = as_rows(dy), rows_of_b = as_rows(b);
  const at::Tensor thin = mask[1] ? as_rows(shrunk) : at::Tensor();
  LowRankGradientParameters parameters;
  parameters.type = kernel_type(dy);
  parameters.b_type = kernel_type(b);
  parameters.rows = dy.size(0);
  parameters.columns = dy.size(1);
  parameters.rank = b.size(1);
  parameters.wide = kernel_rows(wide);
  if (mask[1]) {
    parameters.thin = kernel_rows(thin);
  }
  parameters.b = kernel_rows(rows_of_b);
  parameters.parts = LowRankGradientParameters::parts_for(parameters.rows, parameters.columns, parameters.rank);
  at::Tensor db, of_strips, of_parts;
  PartialSumsParameters sums;
  int results = 0;
  if (mask[0]) {
    if (!dshrunk.defined()) {
      dshrunk = at::empty({parameters.rows, parameters.rank}, dy.options());
    } else {
      mark_changed(dshrunk);
    }
    of_strips = workspace(
        {LowRankGradientParameters::strips(parameters.columns, parameters.rank), parameters.rows, parameters.rank}, dy);
    parameters.dshrunk = of_strips.data_ptr<float>();
    sums.results[results++] = sum_of(of_strips, scale, dshrunk);
  }
  if (mask[1]) {
    db = at::empty({parameters.columns, parameters.rank}, b.options());
    of_parts = workspace({parameters.parts, parameters.columns, parameters.rank}, dy);
    parameters.gradient = of_parts.data_ptr<float>();
    sums.results[results++] = sum_of(of_parts, 1.0, db);
  }
  kernels.gradient(parameters);
  kernels.partial_sums(sums);
  return db;
}

/// The first into `dshrunk` where that is defined; it is made where it is not.
at::Tensor gradients_of_dy(
    const LowRankKernels& kernels, const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale,
    std::array<bool, 2> mask, at::Tensor& dshrunk) {
  constexpr int64_t kMost = LowRankProducts::kMostRank;
  // Ŝ is read for dB alone: where B is frozen there need not be one.
  const bool takes_shrunk = !mask[1] ||
      (can_take(shrunk, dy, b.size(1), kMost) && shrunk.size(1) == b.size(1) && shrunk.size(0) == dy.size(0) &&
       shrunk.scalar_type() == dy.scalar_type());
  if ((!mask[0] && !mask[1]) || !can_take(dy, b, b.size(1), kMost) || b.size(0) != dy.size(1) || !takes_shrunk ||
      (dshrunk.defined() && (dshrunk.scalar_type() != dy.scalar_type() || dshrunk.stride(1) != 1))) {
    return gradients_of_dy_by_products(dy, shrunk, b, scale, mask, dshrunk);
  }
  if (mask[0] && b.size(1) > LowRankGradientParameters::kMostRankInOnePass) {
    gradients_of_dy_by_products(dy, shrunk, b, scale, {true, false}, dshrunk);
    at::Tensor none;
    return gradients_of_dy(kernels, dy, shrunk, b, scale, {false, mask[1]}, none);
  }
  return run_faster(
      kernels, thin_shape(ThinPass::kGradientB, dy, b.size(1), !mask[0] || !mask[1]),
      [&] { return gradients_of_dy_by_kernel(kernels, dy, shrunk, b, scale, mask, dshrunk); },
      [&] { return gradients_of_dy_by_products(dy, shrunk, b, scale, mask, dshrunk); });
}

at::Tensor gradient_a_by_kernel(
    const LowRankKernels& kernels, const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, double p,
    int64_t seed) {
  const at::Tensor wide = as_rows(x), thin = as_rows(dshrunk);
  LowRankGradientParameters parameters;
  parameters.type = parameters.b_type = kernel_type(x);
  parameters.rows = x.size(0);
  parameters.columns = x.size(1);
  parameters.rank = dshrunk.size(1);
  parameters.p = p;
  parameters.seed = static_cast<uint64_t>(seed);
  parameters.wide = kernel_rows(wide);
  parameters.thin = kernel_rows(thin);
  parameters.parts = LowRankGradientParameters::parts_for(parameters.rows, parameters.columns, parameters.rank);
  parameters.transposed = true;
  at::Tensor da = at::empty({parameters.rank, parameters.columns}, x.options().dtype(dtype));
  const at::Tensor partial = workspace({parameters.parts, parameters.rank, parameters.columns}, x);
  parameters.gradient = partial.data_ptr<float>();
  kernels.gradient(parameters);
  PartialSumsParameters sums;
  sums.results[0] = sum_of(partial, 1.0, da);
  kernels.partial_sums(sums);
  return da;
}

} // namespace

at::Tensor low_rank_shrink(
    const LowRankKernels& kernels, const at::Tensor& x, const at::Tensor& a, double scale, double p, int64_t seed) {
  const auto by_products = [&] { return reference::low_rank_shrink(x, a, scale, p, seed); };
  const auto by_kernel = [&] { return shrink_by_kernel(kernels, x, a, scale, p, seed); };
  if (!can_take(x, a, a.size(0), LowRankProducts::kMostRank) || a.size(1) != x.size(1)) {
    return by_products();
  }
  return p > 0.0 ? by_kernel()
                 : run_faster(kernels, thin_shape(ThinPass::kShrink, x, a.size(0)), by_kernel, by_products);
}

std::tuple<at::Tensor, at::Tensor> low_rank_gradient_b(
    const LowRankKernels& kernels, const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale,
    std::array<bool, 2> mask) {
  at::Tensor dshrunk;
  at::Tensor db = gradients_of_dy(kernels, dy, shrunk, b, scale, mask, dshrunk);
  return {std::move(dshrunk), std::move(db)};
}

at::Tensor low_rank_gradient_b_into(
    const LowRankKernels& kernels, const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale,
    bool needs_db, at::Tensor& dshrunk) {
  TORCH_CHECK_VALUE(
      dshrunk.dim() == 2 && dshrunk.size(0) == dy.size(0) && dshrunk.size(1) == b.size(1), "dS of ", dy.sizes(), " by ",
      b.sizes(), " is not ", dshrunk.sizes());
  return gradients_of_dy(kernels, dy, shrunk, b, scale, {true, needs_db}, dshrunk);
}

at::Tensor low_rank_gradient_a(
    const LowRankKernels& kernels, const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, double p,
    int64_t seed) {
  const auto by_products = [&] { return reference::low_rank_gradient_a(dshrunk, x, dtype, p, seed); };
  const auto by_kernel = [&] { return gradient_a_by_kernel(kernels, dshrunk, x, dtype, p, seed); };
  if (!can_take(x, dshrunk, dshrunk.size(1), LowRankProducts::kMostRank) || dshrunk.scalar_type() != x.scalar_type() ||
      dshrunk.size(0) != x.size(0) || !is_known(dtype)) {
    return by_products();
  }
  return p > 0.0 ? by_kernel()
                 : run_faster(kernels, thin_shape(ThinPass::kGradientA, x, dshrunk.size(1)), by_kernel, by_products);
}

at::Tensor& low_rank_gradient_x_(
    const LowRankKernels& kernels, at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, double p,
    int64_t seed) {
  if (p <= 0.0 || !can_take(dshrunk, a, a.size(0), LowRankProducts::kMostRank) || dx.dim() != 2 ||
      dx.scalar_type() != dshrunk.scalar_type() || dx.device() != a.device() || dx.size(0) != dshrunk.size(0) ||
      dx.size(1) != a.size(1) || dshrunk.size(1) != a.size(0) || dx.size(1) == 0 || dx.stride(1) != 1 ||
      (at::GradMode::is_enabled() && dx.requires_grad())) {
    return reference::low_rank_gradient_x_(dx, dshrunk, a, p, seed); // without dropout, a matrix product like others
  }
  const at::Tensor thin = as_rows(dshrunk), rows_of_a = as_rows(a);
  LowRankGradientXParameters parameters;
  parameters.type = kernel_type(dx);
  parameters.a_type = kernel_type(a);
  parameters.rows = dx.size(0);
  parameters.columns = dx.size(1);
  parameters.rank = a.size(0);
  parameters.p = p;
  parameters.seed = static_cast<uint64_t>(seed);
  parameters.dshrunk = kernel_rows(thin);
  parameters.a = kernel_rows(rows_of_a);
  parameters.dx = kernel_rows(dx);
  kernels.gradient_x(parameters);
  mark_changed(dx);
  return dx;
}

#if defined(RORA_HAS_CUDA)
namespace {

/// A launcher on the current stream of the current device.
template <class Parameters, cudaError_t (*launcher)(const Parameters&, cudaStream_t)>
void on_current_stream(const Parameters& p) {
  C10_CUDA_CHECK(launcher(p, c10::cuda::getCurrentCUDAStream()));
}

/// RORA_CUDA_THIN in the environment: kernels or products has that form taken wherever it can be, and timed the faster
/// of one trial of each shape; unset, what tests/gpu/tune.py has found. Throws ValueError for another value.
enum class ThinChoice { kTuned, kKernels, kProducts, kTimed };

ThinChoice thin_choice() {
  const char* value = std::getenv("RORA_CUDA_THIN");
  const std::string_view name = value != nullptr ? value : "";
  TORCH_CHECK_VALUE(
      name.empty() || name == "kernels" || name == "products" || name == "timed", "RORA_CUDA_THIN is '", name,
      "', not kernels, products or timed");
  return name.empty()      ? ThinChoice::kTuned
      : name == "kernels"  ? ThinChoice::kKernels
      : name == "products" ? ThinChoice::kProducts
                           : ThinChoice::kTimed;
}

bool prefers_products(
    const ThinShape& shape, c10::function_ref<void()> by_kernel, c10::function_ref<void()> by_products) {
  static const std::vector<TunedThin> found{
#include "tuned_thin.inc"
  };
  static const TunedForms<TunedThin> tuned(found);
  static auto* const fastest = new FastestForms<ThinShape>; // never destroyed: threads may outlive static objects
  static const ThinChoice choice = thin_choice();
  if (choice == ThinChoice::kKernels || choice == ThinChoice::kProducts) {
    return choice == ThinChoice::kProducts;
  }
  if (choice == ThinChoice::kTuned) {
    constexpr int kMeasuredMajor = 9; // tests/gpu/tune.py writes a table for such GPUs alone
    return at::cuda::getDeviceProperties(shape.device)->major == kMeasuredMajor && tuned.of(shape) == 1;
  }
  return form_by_trial(*fastest, shape, 2, [&](int form) {
           form == 0 ? by_kernel() : by_products();
           return true;
         }) == 1;
}

constexpr LowRankKernels kCudaKernels{
    on_current_stream<kernels::LowRankShrinkParameters, kernels::cuda::low_rank_shrink>,
    on_current_stream<kernels::LowRankGradientParameters, kernels::cuda::low_rank_gradient>,
    on_current_stream<kernels::LowRankGradientXParameters, kernels::cuda::low_rank_gradient_x>,
    on_current_stream<kernels::PartialSumsParameters, kernels::cuda::partial_sums>, prefers_products};

at::Tensor shrink_on_cuda(const at::Tensor& x, const at::Tensor& a, double scale, double p, int64_t seed) {
  const c10::DeviceGuard guard(x.device());
  return low_rank_shrink(kCudaKernels, x, a, scale, p, seed);
}
std::tuple<at::Tensor, at::Tensor> gradient_b_on_cuda(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, std::array<bool, 2> mask) {
  const c10::DeviceGuard guard(dy.device());
  return low_rank_gradient_b(kCudaKernels, dy, shrunk, b, scale, mask);
}
at::Tensor gradient_b_into_on_cuda(
    const at::Tensor& dy, const at::Tensor& shrunk, const at::Tensor& b, double scale, bool needs_db,
    at::Tensor& dshrunk) {
  const c10::DeviceGuard guard(dy.device());
  return low_rank_gradient_b_into(kCudaKernels, dy, shrunk, b, scale, needs_db, dshrunk);
}
at::Tensor gradient_a_on_cuda(
    const at::Tensor& dshrunk, const at::Tensor& x, at::ScalarType dtype, double p, int64_t seed) {
  const c10::DeviceGuard guard(x.device());
  return low_rank_gradient_a(kCudaKernels, dshrunk, x, dtype, p, seed);
}
at::Tensor& gradient_x_on_cuda(at::Tensor& dx, const at::Tensor& dshrunk, const at::Tensor& a, double p, int64_t seed) {
  const c10::DeviceGuard guard(dx.device());
  return low_rank_gradient_x_(kCudaKernels, dx, dshrunk, a, p, seed);
}

TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("low_rank_shrink", shrink_on_cuda);
  m.impl("low_rank_gradient_b", gradient_b_on_cuda);
  m.impl("low_rank_gradient_b_into", gradient_b_into_on_cuda);
  m.impl("low_rank_gradient_a", gradient_a_on_cuda);
  m.impl("low_rank_gradient_x_", gradient_x_on_cuda);
}

} // namespace
#endif

} // namespace rora::ops::detail
