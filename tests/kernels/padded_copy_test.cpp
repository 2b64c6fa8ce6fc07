#include "support.h"

#include <kernels/padded_copy.h>
#include <ops/cuda/padded_copy.h>
#include <rora/core/low_rank_matrices.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace rora {
namespace {

int launches = 0;

void run_on_host(const kernels::PaddedCopyParameters& p) {
  ++launches;
  kernels::cuda::host::run(kernels::cuda::PaddedCopy(p), kernels::cuda::host::Order::kDescending);
}

/// Copies `from` into the middle of wider rows, and says that nothing else was written.
void expect_copies(
    const std::vector<at::Tensor>& from, at::ScalarType to_dtype, int64_t more_rows, int64_t more_columns,
    int expected_launches) {
  std::vector<at::Tensor> rows, to;
  for (const at::Tensor& each : from) {
    const int64_t height = each.size(0) + more_rows, width = each.size(1) + more_columns;
    rows.push_back(at::full({height + 2, width + 5}, 7.0, to_dtype));
    to.push_back(rows.back().narrow(0, 1, height).narrow(1, 2, width));
  }
  launches = 0;
  ops::detail::copy_padded_by(run_on_host, to, from);
  EXPECT_EQ(launches, expected_launches);
  for (size_t i = 0; i < from.size(); ++i) {
    at::Tensor expected = at::full(rows[i].sizes(), 7.0, to_dtype);
    at::Tensor place = expected.narrow(0, 1, to[i].size(0)).narrow(1, 2, to[i].size(1));
    place.zero_();
    place.narrow(0, 0, from[i].size(0)).narrow(1, 0, from[i].size(1)).copy_(from[i]);
    EXPECT_TRUE(at::equal(rows[i], expected)) << i;
  }
}

TEST(PaddedCopy, PutsZerosRightOfAMatrixAndBelow) {
  at::manual_seed(1);
  const at::Tensor wide = at::randn({9, 40}), thin = at::randn({300, 3}), strided = at::randn({6, 50}).narrow(1, 4, 7);
  for (const at::ScalarType from : {at::kFloat, at::kBFloat16}) {
    for (const at::ScalarType to : {at::kFloat, at::kBFloat16}) {
      for (const int64_t more : {0, 1, 5}) {
        expect_copies({wide.to(from), thin.to(from), strided.to(from)}, to, more, 0, 1);
        expect_copies({wide.to(from), thin.to(from), strided.to(from)}, to, 0, more, 1);
        expect_copies({strided, wide.to(from)}, to, more, 2, 1);
      }
    }
  }
}

TEST(PaddedCopy, TakesManyMatricesInFewLaunches) {
  const std::vector<at::Tensor> many(2 * kernels::PaddedCopyParameters::kMost + 1, at::randn({3, 4}));
  expect_copies(many, at::kBFloat16, 1, 1, 3);
}

TEST(PaddedCopy, TakesNothingOfAMatrixWithoutNumbers) {
  expect_copies({at::empty({3, 0}), at::randn({3, 4}), at::empty({0, 4})}, at::kBFloat16, 0, 0, 1);
  expect_copies({at::empty({3, 0})}, at::kBFloat16, 0, 0, 0);
  expect_copies({at::empty({3, 0})}, at::kBFloat16, 1, 1, 1); // zeros
}

TEST(PaddedCopy, LeavesToTheReferenceWhatTheKernelDoesNotKnow) {
  expect_copies({at::randn({3, 4}, at::kDouble)}, at::kBFloat16, 1, 1, 0);
  expect_copies({at::randn({4, 3}).t()}, at::kFloat, 0, 0, 0);
  expect_copies({at::randn({3, 4}).to(at::kHalf), at::randn({2, 2})}, at::kBFloat16, 0, 1, 0);
}

TEST(PaddedCopy, RefusesAPlaceThatIsTooSmall) {
  EXPECT_THROW(ops::copy_padded_({at::empty({3, 4})}, {at::empty({3, 5})}), c10::ValueError);
  EXPECT_THROW(ops::copy_padded_({at::empty({3, 4})}, {at::empty({4, 4})}), c10::ValueError);
  EXPECT_THROW(ops::copy_padded_({at::empty({3, 4})}, {}), c10::ValueError);
  EXPECT_NO_THROW(ops::copy_padded_({}, {}));
}

} // namespace
} // namespace rora
