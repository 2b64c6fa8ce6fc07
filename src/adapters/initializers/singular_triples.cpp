#include "singular_triples.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace rora::detail {
namespace {

constexpr int64_t kMoreColumns = 10;
constexpr uint64_t kSeed = 0x524F5241;

at::Tensor widened(const at::Tensor& matrix) {
  return matrix.to(matrix.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

SingularTriples with_signs(at::Tensor u, at::Tensor s, at::Tensor v) {
  const at::Tensor signs = signs_of_rows(v);
  return {(u * signs.t()).contiguous(), s.contiguous(), (v * signs).contiguous()};
}

SingularTriples part(const at::Tensor& matrix, int64_t begin, int64_t k) {
  const auto [u, s, v] = at::linalg_svd(matrix, /*full_matrices=*/false);
  return with_signs(u.narrow(1, begin, k), s.narrow(0, begin, k), v.narrow(0, begin, k));
}

at::Tensor orthonormal(const at::Tensor& columns) {
  return std::get<0>(at::linalg_qr(columns));
}

} // namespace

at::Tensor signs_of_rows(const at::Tensor& rows) {
  const at::Tensor largest = rows.gather(1, rows.abs().argmax(1, /*keepdim=*/true));
  return at::where(largest.lt(0), -1.0, 1.0).to(rows.scalar_type());
}

SingularTriples first_singular_triples(const at::Tensor& matrix, int64_t k, int64_t iterations) {
  const at::Tensor wide = widened(matrix);
  const int64_t most = std::min(wide.size(0), wide.size(1));
  const int64_t columns = std::min(most, k + kMoreColumns);
  if (iterations == 0 || columns == most) {
    return part(wide, 0, k);
  }
  at::Generator generator = at::detail::createCPUGenerator(kSeed);
  const at::Tensor random =
      at::randn({wide.size(1), columns}, generator, wide.options().device(at::kCPU)).to(wide.device());
  at::Tensor q = orthonormal(wide.mm(random));
  for (int64_t i = 0; i < iterations; ++i) {
    q = orthonormal(wide.mm(orthonormal(wide.t().mm(q))));
  }
  const auto [u, s, v] = at::linalg_svd(q.t().mm(wide), /*full_matrices=*/false);
  return with_signs(q.mm(u.narrow(1, 0, k)), s.narrow(0, 0, k), v.narrow(0, 0, k));
}

SingularTriples last_singular_triples(const at::Tensor& matrix, int64_t k) {
  return part(widened(matrix), std::min(matrix.size(0), matrix.size(1)) - k, k);
}

void check_singular_values(int64_t count, at::IntArrayRef sizes, const std::string& what) {
  TORCH_CHECK_VALUE(
      count <= std::min(sizes[0], sizes[1]), what, " takes ", count, " singular values, and a weight of ", sizes[0],
      " x ", sizes[1], " has ", std::min(sizes[0], sizes[1]));
}

} // namespace rora::detail
