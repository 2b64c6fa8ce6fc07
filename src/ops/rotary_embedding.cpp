#include <rora/ops/rotary_embedding.h>
#include <rora/core/operation.h>

#include "dtype.h"
#include "gradient_place.h"
#include "launch.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace rora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor forward_reference(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor turned = at::cat({-halves[1], halves[0]}, -1);
  const at::Tensor products = turned * sin.to(x.scalar_type()).unsqueeze(1);
  const at::Tensor kept = x * cos.to(x.scalar_type()).unsqueeze(1);
  return inverse ? kept - products : kept + products;
}

bool has_forward_kernel(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return detail::has_kernel(x, cos, sin) && x.size(-1) % 2 == 0;
}

/// Into y of any strides, its last dimension dense.
void run_forward(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse, const at::Tensor& y) {
  const at::Tensor in = x.stride(3) == 1 ? x : x.contiguous();
  const at::Tensor dense_cos = cos.to(x.scalar_type()).contiguous(), dense_sin = sin.to(x.scalar_type()).contiguous();
  kernels::RotaryParameters p;
  p.type = detail::kernel_type(x);
  p.heads = x.size(1);
  p.seq = x.size(2);
  p.head_dim = x.size(3);
  p.x = in.data_ptr();
  p.y = y.data_ptr();
  for (int i = 0; i < 3; ++i) {
    p.x_stride[i] = in.stride(i);
    p.y_stride[i] = y.stride(i);
  }
  p.cos = dense_cos.data_ptr();
  p.sin = dense_sin.data_ptr();
  p.table_batch_stride = dense_cos.size(0) == 1 ? 0 : dense_cos.stride(0);
  p.inverse = inverse;
  detail::launch(
      x, &kernels::Kernels::rotary, &kernels::CudaKernels::rotary, p, x.size(0) * x.size(2), p.heads * p.head_dim);
}

at::Tensor forward_kernel(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  if (!has_forward_kernel(x, cos, sin)) {
    return forward_reference(x, cos, sin, inverse);
  }
  // Laid out as a projection leaves its heads: [batch, seq, heads, head_dim].
  at::Tensor y = at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
  run_forward(x, cos, sin, inverse, y);
  return y;
}

void forward_into_reference(
    const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse, at::Tensor& y) {
  y.copy_(forward_reference(x, cos, sin, inverse));
}

void forward_into_kernel(
    const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse, at::Tensor& y) {
  if (!has_forward_kernel(x, cos, sin) || y.sizes() != x.sizes() || y.dtype() != x.dtype() ||
      y.device() != x.device() || y.stride(3) != 1) {
    forward_into_reference(x, cos, sin, inverse, y);
    return;
  }
  run_forward(x, cos, sin, inverse, y);
  detail::mark_changed(y);
}

struct RotaryEmbeddingFunction : torch::autograd::Function<RotaryEmbeddingFunction> {
  static at::Tensor call(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
    return detail::call_operation<forward_reference>("rora::rotary_embedding_forward", x, cos, sin, inverse);
  }

  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
      const GradientPlace& place) {
    ctx->save_for_backward({cos, sin});
    detail::keep_place(ctx, place);
    return call(x, cos, sin, /*inverse=*/false);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    detail::refuse_second_derivative("rora::rotary_embedding");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& dy = gradients[0];
    const at::Tensor by_token = dy.transpose(1, 2); // [batch, seq, heads, head_dim]
    const at::Tensor memory = detail::kept_place(ctx).for_rows(by_token, by_token.size(2) * by_token.size(3));
    at::Tensor dx;
    // A rotation's transpose turns the other way.
    if (memory.defined()) {
      dx = memory.transpose(1, 2);
      detail::call_operation<forward_into_reference>(
          "rora::rotary_embedding_forward_into", dy, saved[0], saved[1], /*inverse=*/true, dx);
    } else {
      dx = call(dy, saved[0], saved[1], /*inverse=*/true);
    }
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

TORCH_LIBRARY_IMPL(rora, CompositeExplicitAutograd, m) {
  m.impl("rotary_embedding_forward", forward_reference);
  m.impl("rotary_embedding_forward_into", forward_into_reference);
}
TORCH_LIBRARY_IMPL(rora, CPU, m) {
  m.impl("rotary_embedding_forward", forward_kernel);
  m.impl("rotary_embedding_forward_into", forward_into_kernel);
}
TORCH_LIBRARY_IMPL(rora, CUDA, m) {
  m.impl("rotary_embedding_forward", forward_kernel);
  m.impl("rotary_embedding_forward_into", forward_into_kernel);
}
TORCH_LIBRARY_IMPL(rora, CompositeImplicitAutograd, m) {
  m.impl("rotary_embedding", [](const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    return rotary_embedding(x, cos, sin);
  });
}

} // namespace

at::Tensor rotary_embedding(
    const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, const GradientPlace& place) {
  TORCH_CHECK_VALUE(
      x.dim() == 4 && x.size(3) % 2 == 0, "rotary positions turn x [batch, heads, seq, head_dim], head_dim even, not ",
      x.sizes());
  for (const at::Tensor* table : {&cos, &sin}) {
    TORCH_CHECK_VALUE(
        table->dim() == 3 && (table->size(0) == 1 || table->size(0) == x.size(0)) && table->size(1) == x.size(2) &&
            table->size(2) == x.size(3) && table->size(0) == cos.size(0),
        "cos and sin for ", x.sizes(), " are [batch or 1, seq, head_dim], not ", cos.sizes(), " and ", sin.sizes());
  }
  return RotaryEmbeddingFunction::apply(x, cos, sin, place);
}

} // namespace rora::ops
