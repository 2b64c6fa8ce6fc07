// What surrounds cuBLASLt's products, with a product by columns on the host in cuBLASLt's place.

#include "support.h"

#include <kernels/device.h>
#include <kernels/gemm_layout.h>
#include <ops/cuda/gemm_sum.h>
#include <rora/core/gradient_rows.h>
#include <rora/ops/weight_with_room.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>
#include <vector>

namespace rora {
namespace {

using kernels::Type;
using kernels::cuda::BFloat16;
using kernels::cuda::GemmCall;
using kernels::cuda::GemmRequest;
using kernels::cuda::GemmShape;
using kernels::cuda::GemmShapeHash;
using rora::testing::error;
using rora::testing::tolerance;

float load(const void* data, Type type, int64_t index) {
  return type == Type::kBFloat16 ? kernels::cuda::widen(static_cast<const BFloat16*>(data)[index])
                                 : static_cast<const float*>(data)[index];
}

void store(void* data, Type type, int64_t index, float value) {
  if (type == Type::kBFloat16) {
    static_cast<BFloat16*>(data)[index] = kernels::cuda::rounded<BFloat16>(value);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

/// D = alpha·op(L)·op(R) + beta·D as cuBLASLt documents it; it takes no stride below a column's length.
void multiply_by_columns(const GemmCall& call) {
  const GemmShape& s = call.shape;
  ASSERT_GE(s.left_stride, s.left_rows());
  ASSERT_GE(s.right_stride, s.right_rows());
  ASSERT_GE(s.result_stride, s.m);
  for (int64_t row = 0; row < s.m; ++row) {
    for (int64_t column = 0; column < s.n; ++column) {
      double sum = 0.0;
      for (int64_t i = 0; i < s.k; ++i) {
        const int64_t left = s.left_transposed ? i + row * s.left_stride : row + i * s.left_stride;
        const int64_t right = s.right_transposed ? column + i * s.right_stride : i + column * s.right_stride;
        sum += static_cast<double>(load(call.left, s.type, left)) * load(call.right, s.type, right);
      }
      const int64_t place = row + column * s.result_stride;
      const double before = call.beta == 0.0f ? 0.0 : call.beta * load(call.result, s.result_type, place);
      store(call.result, s.result_type, place, static_cast<float>(call.alpha * sum + before));
    }
  }
}

bool host_gemm(const GemmRequest& request) {
  multiply_by_columns(kernels::cuda::gemm_call(request, /*device=*/0));
  return true;
}

/// Every way in which a matrix of these sizes may lie: by rows or columns, apart or not, off any boundary, and as no
/// GEMM takes it.
std::vector<at::Tensor> layouts(int64_t rows, int64_t columns, at::ScalarType dtype) {
  const at::Tensor wide = at::randn({rows + 2, columns + 5}).to(dtype);
  const at::Tensor tall = at::randn({columns + 3, rows + 4}).to(dtype);
  const at::Tensor apart = at::randn({rows, columns, 2}).to(dtype);
  return {
      at::randn({rows, columns}).to(dtype),
      wide.narrow(0, 1, rows).narrow(1, 3, columns),
      at::randn({columns, rows}).to(dtype).t(),
      tall.narrow(0, 2, columns).narrow(1, 1, rows).t(),
      apart.select(2, 1),
  };
}

at::Tensor in_double(const at::Tensor& x) {
  return x.to(at::kDouble);
}

TEST(GemmLayout, IsTheRowsProductForEveryLayout) {
  at::manual_seed(1);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, columns, depth] :
         {std::array<int64_t, 3>{5, 7, 3}, {1, 6, 4}, {6, 1, 4}, {4, 6, 1}, {1, 1, 5}, {1, 1, 1}}) {
      for (const at::Tensor& a : layouts(rows, depth, dtype)) {
        for (const at::Tensor& b : layouts(depth, columns, dtype)) {
          for (const at::Tensor& y : layouts(rows, columns, at::kFloat)) {
            const auto request = ops::detail::gemm_request(y, a, b, /*alpha=*/0.5, /*beta=*/2.0, /*tf32=*/false);
            if (!request) {
              continue;
            }
            const at::Tensor expected = in_double(a).mm(in_double(b)) * 0.5 + in_double(y) * 2.0;
            ASSERT_NO_FATAL_FAILURE(host_gemm(*request));
            EXPECT_LT(error(y, expected), 1e-6) << a.strides() << b.strides() << y.strides();
          }
        }
      }
    }
  }
}

TEST(GemmLayout, TakesNoMatrixWhoseRowsAndColumnsAreBothApart) {
  using kernels::cuda::gemm_matrix;
  const auto by_rows = gemm_matrix(nullptr, 4, 6, 9, 1), by_columns = gemm_matrix(nullptr, 4, 6, 1, 5);
  ASSERT_TRUE(by_rows && by_columns);
  EXPECT_EQ(by_rows->stride, 9);
  EXPECT_FALSE(by_rows->transposed);
  EXPECT_EQ(by_columns->stride, 5);
  EXPECT_TRUE(by_columns->transposed);
  EXPECT_FALSE(gemm_matrix(nullptr, 4, 6, 12, 2));
  EXPECT_FALSE(gemm_matrix(nullptr, 4, 6, 0, 1)) << "an expanded row";
  EXPECT_FALSE(gemm_matrix(nullptr, 4, 6, 5, 1)) << "overlapping rows";
  EXPECT_FALSE(gemm_matrix(nullptr, 4, 6, 1, 1));
  EXPECT_EQ(gemm_matrix(nullptr, 1, 6, 0, 1)->stride, 6) << "one row's stride means nothing";
  EXPECT_EQ(gemm_matrix(nullptr, 6, 1, 1, 0)->stride, 1);
}

TEST(GemmLayout, SaysHowAddressesAreAligned) {
  alignas(512) static char room[512];
  for (const auto& [offset, alignment] :
       {std::pair<int64_t, int64_t>{0, 256}, {256, 256}, {128, 128}, {48, 16}, {8, 8}, {6, 2}, {1, 1}}) {
    EXPECT_EQ(kernels::cuda::alignment_of(room + offset), alignment) << offset;
  }
}

TEST(GemmLayout, CountsTheBytesThatAResultSpans) {
  GemmShape shape;
  shape.m = 5;
  shape.n = 3;
  shape.result_stride = 8;
  shape.result_type = Type::kBFloat16;
  EXPECT_EQ(shape.result_bytes(), 2 * (8 + 8 + 5));
  shape.result_type = Type::kFloat;
  EXPECT_EQ(shape.result_bytes(), 4 * (8 + 8 + 5));
}

TEST(GemmShape, IsAnotherWhereAnyOfItsPartsIs) {
  std::vector<GemmShape> shapes(1);
  const auto add = [&](auto GemmShape::*part, auto value) {
    shapes.emplace_back();
    shapes.back().*part = value;
  };
  for (const auto part :
       {&GemmShape::m, &GemmShape::n, &GemmShape::k, &GemmShape::left_stride, &GemmShape::right_stride,
        &GemmShape::result_stride, &GemmShape::left_alignment, &GemmShape::right_alignment,
        &GemmShape::result_alignment, &GemmShape::device}) {
    add(part, int64_t{16});
  }
  add(&GemmShape::left_transposed, true);
  add(&GemmShape::right_transposed, true);
  add(&GemmShape::tf32, true);
  add(&GemmShape::type, Type::kBFloat16);
  add(&GemmShape::result_type, Type::kBFloat16);
  std::unordered_set<size_t> hashes;
  for (size_t i = 0; i < shapes.size(); ++i) {
    hashes.insert(GemmShapeHash()(shapes[i]));
    for (size_t j = 0; j < shapes.size(); ++j) {
      EXPECT_EQ(shapes[i] == shapes[j], i == j) << i << " " << j;
    }
  }
  EXPECT_EQ(hashes.size(), shapes.size());
  EXPECT_EQ(GemmShapeHash()(GemmShape(shapes[3])), GemmShapeHash()(shapes[3]));
}

/// A copy that begins one element behind a boundary, so that every copy is aligned alike.
at::Tensor off_boundary(const at::Tensor& x) {
  const at::Tensor room = at::empty({x.numel() + 1}, x.options());
  return room.narrow(0, 1, x.numel()).view(x.sizes()).copy_(x);
}

TEST(GemmShape, OfAllRequestsOfOneKindIsTheSame) {
  const auto shape_of = [](const at::Tensor& a, const at::Tensor& b, at::Tensor y, bool tf32) {
    GemmShape shape;
    ops::detail::sum_by_gemms(y, {a}, {b}, 1.0, /*accumulate=*/false, tf32, [&](const GemmRequest& request) {
      shape = kernels::cuda::gemm_call(request, /*device=*/2).shape;
      return true;
    });
    return shape;
  };
  const at::Tensor a = off_boundary(at::randn({8, 64})), b = off_boundary(at::randn({64, 16}));
  const at::Tensor y = off_boundary(at::randn({8, 16}));
  const auto first = shape_of(a, b, y, false);
  EXPECT_EQ(first.device, 2);
  EXPECT_EQ(first.left_alignment, 4);
  EXPECT_EQ(first, shape_of(off_boundary(a), off_boundary(b), off_boundary(y), false));
  EXPECT_FALSE(first == shape_of(a, b, y, true));
  EXPECT_FALSE(first == shape_of(a, off_boundary(b.t()).t(), y, false)) << "the same numbers, by columns";
  const auto bf16 = [](const at::Tensor& x) { return off_boundary(x.to(at::kBFloat16)); };
  EXPECT_EQ(shape_of(bf16(a), bf16(b), bf16(y), true), shape_of(bf16(a), bf16(b), bf16(y), false))
      << "TF32 is a matter of float alone";
}

/// y = 0.5·Σ a·b or y + that, from every layout of every matrix.
TEST(SumByGemms, IsTheSumForEveryLayoutAndDtype) {
  at::manual_seed(2);
  const int64_t rows = 5, columns = 6;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const auto result : {dtype, at::kFloat}) {
      const auto wide = layouts(rows, 9, dtype), thin = layouts(rows, 2, dtype);
      // One right side is rounded to the left one's dtype.
      const auto wide_b = layouts(9, columns, at::kFloat), thin_b = layouts(2, columns, dtype);
      const auto results = layouts(rows, columns, result);
      for (size_t layout = 0; layout < wide.size(); ++layout) {
        for (size_t other = 0; other < wide.size(); ++other) {
          for (const bool accumulate : {false, true}) {
            at::Tensor y = results[other];
            const at::Tensor start = y.clone();
            const std::vector<at::Tensor> a{wide[layout], thin[other]}, b{wide_b[other], thin_b[layout]};
            const at::Tensor sum = in_double(a[0]).mm(in_double(b[0].to(dtype))) + in_double(a[1]).mm(in_double(b[1]));
            const at::Tensor expected = 0.5 * sum + (accumulate ? in_double(start) : at::zeros_like(sum));
            const bool done = ops::detail::sum_by_gemms(y, a, b, 0.5, accumulate, /*tf32=*/false, host_gemm);
            ASSERT_EQ(done, y.stride(0) == 1 || y.stride(1) == 1);
            EXPECT_LT(error(y, done ? expected : start), 2 * tolerance(result)) << layout << " " << other << dtype;
          }
        }
      }
    }
  }
}

TEST(SumByGemms, ComesToTheDeepestProductLast) {
  std::vector<int64_t> depths;
  std::vector<float> betas;
  const auto record = [&](const GemmRequest& request) {
    depths.push_back(request.depth);
    betas.push_back(request.beta);
    return true;
  };
  at::Tensor y = at::zeros({4, 4});
  const std::vector<at::Tensor> a{at::ones({4, 64}), at::ones({4, 2}), at::ones({4, 0}), at::ones({4, 8})};
  const std::vector<at::Tensor> b{at::ones({64, 4}), at::ones({2, 4}), at::ones({0, 4}), at::ones({8, 4})};
  const auto before = y._version();
  ops::detail::sum_by_gemms(y, a, b, 1.0, /*accumulate=*/false, false, record);
  EXPECT_EQ(depths, (std::vector<int64_t>{2, 8, 64}));
  EXPECT_EQ(betas, (std::vector<float>{0, 1, 1}));
  EXPECT_NE(y._version(), before);
  betas.clear();
  ops::detail::sum_by_gemms(y, a, b, 1.0, /*accumulate=*/true, false, record);
  EXPECT_EQ(betas, (std::vector<float>{1, 1, 1}));
}

/// Columns of one block of memory: that many each, from the first.
std::vector<at::Tensor> side_by_side(int64_t rows, const std::vector<int64_t>& widths, at::ScalarType dtype) {
  constexpr int64_t kUnread = 3;
  const int64_t width = std::accumulate(widths.begin(), widths.end(), int64_t{0});
  return at::randn({rows, width + kUnread}).to(dtype).narrow(1, 0, width).split_with_sizes(widths, 1);
}

TEST(JoinPairs, MakesOneProductOfNeighbours) {
  at::manual_seed(7);
  const auto dtype = at::kBFloat16;
  const auto left = side_by_side(5, {9, 2, 4}, dtype); // x | s | t
  const auto right = side_by_side(6, {9, 2, 4}, dtype); // W | B | C, their transposes one above the other
  const std::vector<at::Tensor> b{right[0].t(), right[1].t(), right[2].t()};
  std::vector<int64_t> depths;
  const auto gemm = [&](const GemmRequest& request) {
    depths.push_back(request.depth);
    return host_gemm(request);
  };
  at::Tensor y = at::empty({5, 6}, dtype), expected = at::zeros({5, 6}, at::kDouble);
  for (size_t i = 0; i < left.size(); ++i) {
    expected += in_double(left[i]).mm(in_double(b[i]));
  }
  const ops::detail::Pairs pairs = ops::detail::join_pairs(left, b);
  ASSERT_EQ(pairs.a.size(), 1u);
  ASSERT_TRUE(ops::detail::sum_by_gemms(y, pairs.a, pairs.b, 1.0, /*accumulate=*/false, /*tf32=*/false, gemm));
  EXPECT_EQ(depths, std::vector<int64_t>{15});
  EXPECT_LT(error(y, expected), tolerance(dtype));
}

TEST(JoinPairs, JoinsRowsOneAboveTheOtherAsBackwardHasThem) {
  const at::Tensor stacked = at::randn({9 + 2, 7});
  const std::vector<at::Tensor> w{stacked.narrow(0, 0, 9).narrow(1, 0, 5), stacked.narrow(0, 9, 2).narrow(1, 0, 5)};
  const auto dy = side_by_side(4, {9, 2}, at::kFloat);
  const ops::detail::Pairs pairs = ops::detail::join_pairs(dy, w);
  ASSERT_EQ(pairs.a.size(), 1u);
  EXPECT_TRUE(at::equal(pairs.a[0], at::cat(dy, 1)));
  EXPECT_TRUE(at::equal(pairs.b[0], at::cat(w, 0)));
}

TEST(JoinPairs, MakesOneProductOfTheGradientOfAllThatReadsOneInput) {
  const auto weights = ops::weights_with_room({at::randn({16, 24}), at::randn({8, 24}), at::randn({8, 24})}, 5);
  ops::GradientRows rows({16, 8, 8, 24});
  std::vector<at::Tensor> left = rows.fresh(4, at::kFloat), right;
  for (const auto& weight : weights) {
    right.push_back(weight->backward_matrix());
  }
  right.push_back(weights.back()->below(24));
  const ops::detail::Pairs pairs = ops::detail::join_pairs(left, right);
  ASSERT_EQ(pairs.a.size(), 1u);
  EXPECT_EQ(pairs.a[0].sizes(), (std::vector<int64_t>{4, 56}));
  EXPECT_EQ(pairs.b[0].sizes(), (std::vector<int64_t>{56, 24}));
  EXPECT_TRUE(at::equal(pairs.b[0], at::cat(right, 0)));
}

TEST(JoinPairs, LeavesApartWhatIsNoNeighbour) {
  const auto left = side_by_side(5, {4, 4, 4}, at::kFloat), right = side_by_side(6, {4, 4, 4}, at::kFloat);
  const auto count = [](const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    const ops::detail::Pairs pairs = ops::detail::join_pairs(a, b);
    EXPECT_EQ(pairs.a.size(), pairs.b.size());
    return pairs.a.size();
  };
  const at::Tensor w = right[0].t(), next = right[1].t(), last = right[2].t();
  EXPECT_EQ(count({left[0], left[1]}, {w, next}), 1u);
  EXPECT_EQ(count({left[0], left[2]}, {w, last}), 2u) << "columns between them";
  EXPECT_EQ(count({left[1], left[0]}, {next, w}), 2u) << "in the other order";
  EXPECT_EQ(count({left[0], left[1]}, {w, next.clone()}), 2u) << "of other memory";
  EXPECT_EQ(count({left[0], left[1].clone()}, {w, next}), 2u);
  EXPECT_EQ(count({left[0], left[1]}, {w, next.to(at::kBFloat16)}), 2u) << "of another dtype";
  EXPECT_EQ(count({left[0], left[1], left[2]}, {w, next.clone(), last}), 3u);
  EXPECT_EQ(count({left[0], left[0], left[1]}, {w, w, next}), 2u);
}

TEST(SumByGemms, GivesLibTorchWhatTheDeviceCannot) {
  at::manual_seed(3);
  for (const auto& [dtype, result] :
       {std::pair{at::kFloat, at::kFloat}, {at::kBFloat16, at::kBFloat16}, {at::kBFloat16, at::kFloat}}) {
    const std::vector<at::Tensor> a{at::randn({5, 9}).to(dtype), at::randn({5, 3}).to(dtype)};
    const std::vector<at::Tensor> b{at::randn({9, 4}).to(dtype), at::randn({3, 4}).to(dtype)};
    for (const bool accumulate : {false, true}) {
      at::Tensor y = at::full({5, 4}, accumulate ? 3.0 : std::numeric_limits<double>::quiet_NaN(), result);
      const at::Tensor sum = 0.5 * (in_double(a[0]).mm(in_double(b[0])) + in_double(a[1]).mm(in_double(b[1])));
      ops::detail::sum_by_gemms(y, a, b, 0.5, accumulate, false, [](const GemmRequest&) { return false; });
      EXPECT_LT(error(y, accumulate ? sum + 3.0 : sum), 3 * tolerance(dtype)) << dtype << result;
    }
  }
}

TEST(SumByGemms, OfNothingIsZeroOrWhatWasThere) {
  const auto none = [](const GemmRequest&) {
    ADD_FAILURE() << "an empty product was asked for";
    return true;
  };
  at::Tensor y = at::ones({3, 4});
  ops::detail::sum_by_gemms(y, {at::ones({3, 0})}, {at::ones({0, 4})}, 1.0, /*accumulate=*/true, false, none);
  EXPECT_TRUE(at::equal(y, at::ones({3, 4})));
  ops::detail::sum_by_gemms(y, {at::ones({3, 0})}, {at::ones({0, 4})}, 1.0, /*accumulate=*/false, false, none);
  EXPECT_TRUE(at::equal(y, at::zeros({3, 4})));
  at::Tensor empty = at::ones({0, 4});
  ops::detail::sum_by_gemms(empty, {at::ones({0, 2})}, {at::ones({2, 4})}, 1.0, /*accumulate=*/false, false, none);
}

TEST(SumByGemms, RefusesAResultThatOverlaps) {
  at::Tensor y = at::ones({8, 8});
  const auto sum = [&](at::Tensor result, const at::Tensor& a, const at::Tensor& b) {
    ops::detail::sum_by_gemms(result, {a}, {b}, 1.0, false, false, host_gemm);
  };
  EXPECT_THROW(sum(y, y, at::ones({8, 8})), c10::Error);
  EXPECT_THROW(sum(y, at::ones({8, 8}), y.t()), c10::Error);
}

TEST(SumByGemms, KnowsFloatAndBFloat16) {
  const auto takes = [](at::ScalarType a, at::ScalarType b, at::ScalarType y) {
    return ops::detail::has_gemm({at::ones({2, 2}, a)}, {at::ones({2, 2}, b)}, at::ones({2, 2}, y));
  };
  EXPECT_TRUE(takes(at::kFloat, at::kBFloat16, at::kFloat));
  EXPECT_TRUE(takes(at::kBFloat16, at::kFloat, at::kBFloat16));
  EXPECT_TRUE(takes(at::kBFloat16, at::kBFloat16, at::kFloat));
  EXPECT_FALSE(takes(at::kFloat, at::kFloat, at::kBFloat16));
  EXPECT_FALSE(takes(at::kDouble, at::kDouble, at::kDouble));
  EXPECT_FALSE(takes(at::kHalf, at::kHalf, at::kHalf));
  EXPECT_FALSE(
      ops::detail::has_gemm({at::ones({2, 2})}, {at::ones({2, 2}, at::TensorOptions(at::kMeta))}, at::ones({2, 2})));
}

} // namespace
} // namespace rora
