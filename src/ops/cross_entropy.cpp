#include <rora/ops/cross_entropy.h>
#include <rora/core/operation.h>
#include <rora/core/sum_of_products.h>

#include "dtype.h"
#include "launch.h"
#include "targets.h"
#include "to_device.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

static_assert(kIgnoreIndex == kernels::CrossEntropyParameters::kIgnored);

/// −log softmax(logits)[target] of each row, in the wide type; with `gradient`, the logits become softmax − onehot.
/// Both are 0 of a row that is ignored.
at::Tensor rows_reference(at::Tensor& logits, const at::Tensor& targets, bool gradient) {
  const at::Tensor ignored = targets == kIgnoreIndex;
  const at::Tensor index = targets.masked_fill(ignored, 0).unsqueeze(1);
  at::Tensor wide = logits.to(detail::wide_type(logits.scalar_type()));
  const at::Tensor normaliser = wide.logsumexp(1, /*keepdim=*/true);
  const at::Tensor losses = (normaliser - wide.gather(1, index)).squeeze(1).masked_fill(ignored, 0);
  if (gradient) {
    wide = (wide - normaliser).exp();
    wide = wide.scatter_add(1, index, at::full_like(index, -1, wide.options()));
    logits.copy_(wide.masked_fill(ignored.unsqueeze(1), 0));
  }
  return losses;
}

at::Tensor rows_kernel(at::Tensor& logits, const at::Tensor& targets, bool gradient) {
  if (!detail::has_kernel(logits, targets) || logits.stride(1) != 1) {
    return rows_reference(logits, targets, gradient);
  }
  const at::Tensor index = targets.contiguous();
  at::Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(detail::wide_type(logits.scalar_type())));
  kernels::CrossEntropyParameters p;
  p.type = detail::kernel_type(logits);
  p.vocab = logits.size(1);
  p.logits = detail::kernel_rows(logits);
  p.targets = index.const_data_ptr<int64_t>();
  p.losses = losses.data_ptr();
  p.gradient = gradient;
  detail::launch(
      logits, &kernels::Kernels::cross_entropy, &kernels::CudaKernels::cross_entropy, p, logits.size(0), p.vocab);
  if (gradient) {
    detail::mark_changed(logits);
  }
  return losses;
}

/// dweight `[vocab, hidden]`, in the wide type, + dlogitsᵀ·rows.
void add_weight_gradient(at::Tensor& dweight, const at::Tensor& dlogits, const at::Tensor& rows) {
  if (!rows.is_cpu() && rows.scalar_type() == at::kBFloat16) { // copies in fp32 would be larger than the logits
    sum_of_products_(dweight, {dlogits.t()}, {rows});
  } else {
    dweight.addmm_(dlogits.t().to(dweight.scalar_type()), rows.to(dweight.scalar_type()));
  }
}

/// The sum of the tokens' losses, and its gradients by `hidden` and `weight` where `mask` asks for them.
std::tuple<at::Tensor, at::Tensor, at::Tensor> forward_composite(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t chunk,
    std::array<bool, 2> mask) {
  const auto wide = detail::wide_type(hidden.scalar_type());
  const int64_t tokens = hidden.size(0);
  at::Tensor sum = at::zeros({}, hidden.options().dtype(wide));
  at::Tensor dhidden = mask[0] ? at::empty_like(hidden) : at::Tensor();
  at::Tensor dweight = mask[1] ? at::zeros(weight.sizes(), weight.options().dtype(wide)) : at::Tensor();
  // Rows an odd number of cache lines apart, else a column's elements would share a few places of the cache.
  constexpr int64_t kLineBytes = 64;
  const int64_t line = kLineBytes / hidden.element_size();
  const int64_t lines = (weight.size(0) + line - 1) / line;
  at::Tensor logits = at::empty({std::min(chunk, tokens), (lines + 1 - lines % 2) * line}, hidden.options())
                          .narrow(1, 0, weight.size(0));
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t length = std::min(chunk, tokens - begin);
    const at::Tensor rows = hidden.narrow(0, begin, length);
    at::Tensor own = logits.narrow(0, 0, length);
    sum_of_products_(own, {rows}, {weight.t()}, 1.0, /*accumulate=*/false);
    sum.add_(detail::call_operation<rows_reference>(
                 "rora::cross_entropy_rows_", own, targets.narrow(0, begin, length), mask[0] || mask[1])
                 .sum());
    if (mask[1]) {
      add_weight_gradient(dweight, own, rows);
    }
    if (mask[0]) {
      at::Tensor target_rows = dhidden.narrow(0, begin, length);
      sum_of_products_(target_rows, {own}, {weight}, 1.0, /*accumulate=*/false);
    }
  }
  return {sum, dhidden, dweight};
}

struct TokenCrossEntropyFunction : torch::autograd::Function<TokenCrossEntropyFunction> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
      int64_t chunk, std::array<bool, 2> mask) {
    auto [sum, dhidden, dweight] = detail::call_operation<forward_composite>(
        "rora::token_cross_entropy_forward", hidden, weight, targets, chunk, mask);
    ctx->save_for_backward({dhidden, dweight});
    ctx->saved_data["dtypes"] =
        std::vector<int64_t>{static_cast<int64_t>(hidden.scalar_type()), static_cast<int64_t>(weight.scalar_type())};
    return sum;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    detail::refuse_second_derivative("rora::token_cross_entropy");
    const auto saved = ctx->get_saved_variables();
    const auto dtypes = ctx->saved_data["dtypes"].toIntVector();
    const auto scaled = [&](size_t i) {
      return saved[i].defined()
          ? (saved[i] * gradients[0].to(saved[i].scalar_type())).to(static_cast<at::ScalarType>(dtypes[i]))
          : at::Tensor();
    };
    return {scaled(0), scaled(1), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("cross_entropy_rows_", rows_reference);
  m.impl("token_cross_entropy_forward", forward_composite);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("cross_entropy_rows_", rows_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("cross_entropy_rows_", rows_kernel);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("token_cross_entropy", token_cross_entropy);
}

} // namespace

void detail::check_targets(const at::Tensor& targets, int64_t vocab) {
  if (targets.numel() > 0 && !targets.is_meta()) {
    const at::Tensor counted = targets.masked_fill(targets == kIgnoreIndex, 0);
    const int64_t least = counted.min().item<int64_t>();
    const int64_t greatest = counted.max().item<int64_t>();
    if (least < 0 || greatest >= vocab) {
      C10_THROW_ERROR(
          IndexError,
          "label " + std::to_string(least < 0 ? least : greatest) + " is outside the vocabulary of " +
              std::to_string(vocab));
    }
  }
}

int64_t cross_entropy_chunk(int64_t vocab, int64_t element_size, at::Device device) {
  constexpr int64_t kLogitsBytes = int64_t{32} << 20;
  constexpr int64_t kLogitsBytesOfGpu = int64_t{512} << 20; // a few hundred rows would leave much of it idle
  return std::max<int64_t>(1, (device.is_cuda() ? kLogitsBytesOfGpu : kLogitsBytes) / (element_size * vocab));
}

at::Tensor token_cross_entropy(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t chunk) {
  detail::check_targets(targets, weight.size(0));
  return detail::cross_entropy_of_checked(hidden, weight, detail::to_device(targets, hidden.device()), chunk);
}

at::Tensor detail::cross_entropy_of_checked(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t chunk) {
  if (chunk <= 0) {
    chunk = cross_entropy_chunk(weight.size(0), hidden.element_size(), hidden.device());
  }
  // Asked here, as inside the node's forward gradients are always off.
  const bool recording = at::GradMode::is_enabled();
  const std::array<bool, 2> mask{recording && hidden.requires_grad(), recording && weight.requires_grad()};
  return TokenCrossEntropyFunction::apply(hidden, weight, targets, chunk, mask);
}

} // namespace rora::ops
