#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

namespace rora::ops::detail {

/// How a device's products take A and B. A GPU's are fast where every matrix begins, and every row, at a multiple of 16
/// bytes: ranks are made up to multiples of 8 with zeros, also those of terms whose Ŝ lie side by side in one matrix.
struct LowRankForm {
  std::optional<at::ScalarType> dtype; ///< none: each as it is
  int64_t rank_multiple = 1;

  static LowRankForm of_device(const at::Tensor& x) {
    constexpr int64_t kMultipleOfGpu = 8;
    return x.is_cpu() ? LowRankForm{} : LowRankForm{x.scalar_type(), kMultipleOfGpu};
  }

  int64_t padded(int64_t rank) const {
    return (rank + rank_multiple - 1) / rank_multiple * rank_multiple;
  }
};

/// The `matrices` `[rank, in]` above each other `[Σ padded rank, in]`, zeros below each that is padded: cast and put
/// together by one copy. One alone that needs no zeros is given back as it is, as products cast a matrix themselves.
inline at::Tensor rows_above_each_other(const std::vector<at::Tensor>& matrices, const LowRankForm& form) {
  if (matrices.size() == 1 && form.padded(matrices[0].size(0)) == matrices[0].size(0)) {
    return matrices[0];
  }
  int64_t rows = 0;
  for (const at::Tensor& each : matrices) {
    rows += form.padded(each.size(0));
  }
  const at::ScalarType dtype = form.dtype.value_or(matrices[0].scalar_type());
  const at::Tensor all = at::empty({rows, matrices[0].size(1)}, matrices[0].options().dtype(dtype));
  std::vector<at::Tensor> places;
  int64_t begin = 0;
  for (const at::Tensor& each : matrices) {
    const int64_t rank = each.size(0), padded = form.padded(rank);
    places.push_back(all.narrow(0, begin, rank));
    if (padded > rank) {
      all.narrow(0, begin + rank, padded - rank).zero_();
    }
    begin += padded;
  }
  at::_foreach_copy_(places, matrices);
  return all;
}

/// The `matrices` `[out, rank]` as `[out, padded rank]`, zeros beside each that is padded; those that are so already are
/// given back as they are, and the rest made by one copy.
inline std::vector<at::Tensor> columns_in_multiples(std::vector<at::Tensor> matrices, const LowRankForm& form) {
  std::vector<at::Tensor> places, from;
  for (at::Tensor& each : matrices) {
    const int64_t rank = each.size(1), padded = form.padded(rank);
    const at::ScalarType dtype = form.dtype.value_or(each.scalar_type());
    if (padded != rank || dtype != each.scalar_type()) {
      from.push_back(each);
      const auto options = each.options().dtype(dtype);
      each = padded != rank ? at::zeros({each.size(0), padded}, options) : at::empty({each.size(0), rank}, options);
      places.push_back(each.narrow(1, 0, rank));
    }
  }
  if (!places.empty()) {
    at::_foreach_copy_(places, from);
  }
  return matrices;
}

/// The `parts` `[tokens, rank]` side by side, zeros beside each that is padded; one alone that is not is given back.
inline at::Tensor columns_beside_each_other(const std::vector<at::Tensor>& parts, const LowRankForm& form) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& each : parts) {
    all.push_back(each);
    if (const int64_t zeros = form.padded(each.size(1)) - each.size(1); zeros > 0) {
      all.push_back(at::zeros({each.size(0), zeros}, each.options()));
    }
  }
  return all.size() == 1 ? all[0] : at::cat(all, 1);
}

} // namespace rora::ops::detail
