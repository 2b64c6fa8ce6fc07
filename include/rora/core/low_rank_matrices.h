#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <numeric>
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

/// Whether the `matrices` `[rank, in]` are stretches of one dense matrix, each beginning where the one before it ends.
inline bool are_vstacked(const std::vector<at::Tensor>& matrices) {
  const at::Tensor& first = matrices[0];
  int64_t begin = first.storage_offset();
  for (const at::Tensor& each : matrices) {
    if (!each.is_contiguous() || each.size(1) != first.size(1) || each.scalar_type() != first.scalar_type() ||
        !each.has_storage() || !each.is_alias_of(first) || each.storage_offset() != begin) {
      return false;
    }
    begin += each.numel();
  }
  return true;
}

/// The `matrices` `[rank, in]` above each other `[Σ padded rank, in]`, zeros below each that is padded: cast and put
/// together by one copy. Those that need no zeros and no cast and lie so already (as `ParameterTable` keeps q, k and v's A)
/// are not copied, nor is one alone that needs no zeros, as products cast a matrix themselves.
inline at::Tensor vstack(const std::vector<at::Tensor>& matrices, const LowRankForm& form) {
  int64_t rows = 0;
  bool needs_zeros = false;
  for (const at::Tensor& each : matrices) {
    const int64_t padded = form.padded(each.size(0));
    needs_zeros = needs_zeros || padded != each.size(0);
    rows += padded;
  }
  const at::ScalarType dtype = form.dtype.value_or(matrices[0].scalar_type());
  if (!needs_zeros && matrices.size() == 1) {
    return matrices[0];
  }
  if (!needs_zeros && dtype == matrices[0].scalar_type() && are_vstacked(matrices)) {
    return matrices[0].as_strided({rows, matrices[0].size(1)}, {matrices[0].size(1), 1});
  }
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
inline std::vector<at::Tensor> padded_columns(std::vector<at::Tensor> matrices, const LowRankForm& form) {
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

/// Whether the `parts` `[tokens, rank]` are all of a dense matrix's columns, each beginning where the one before it ends.
inline bool are_hstacked(const std::vector<at::Tensor>& parts) {
  const at::Tensor& first = parts[0];
  int64_t column = 0;
  for (const at::Tensor& each : parts) {
    if (!each.has_storage() || !each.is_alias_of(first) || each.scalar_type() != first.scalar_type() ||
        each.size(0) != first.size(0) || each.stride(0) != first.stride(0) || each.stride(1) != 1 ||
        each.storage_offset() != first.storage_offset() + column) {
      return false;
    }
    column += each.size(1);
  }
  return first.stride(0) == column;
}

/// Where to write parts `[tokens, rank]` that are then to lie side by side, as `hstack` takes them without
/// a copy; undefined tensors for a form that pads ranks.
inline std::vector<at::Tensor> empty_hstacked(
    int64_t tokens, const std::vector<int64_t>& ranks, const LowRankForm& form, const at::TensorOptions& options) {
  std::vector<at::Tensor> parts(ranks.size());
  if (form.rank_multiple == 1) {
    const at::Tensor all = at::empty({tokens, std::accumulate(ranks.begin(), ranks.end(), int64_t{0})}, options);
    int64_t column = 0;
    for (size_t i = 0; i < ranks.size(); ++i) {
      parts[i] = all.narrow(1, column, ranks[i]);
      column += ranks[i];
    }
  }
  return parts;
}

/// The `parts` `[tokens, rank]` side by side, zeros beside each that is padded; one alone that is not is given back. In a form
/// that pads no ranks, those that lie so already are not copied.
inline at::Tensor hstack(const std::vector<at::Tensor>& parts, const LowRankForm& form) {
  if (form.rank_multiple == 1 && parts.size() > 1 && are_hstacked(parts)) {
    return parts[0].as_strided({parts[0].size(0), parts[0].stride(0)}, {parts[0].stride(0), 1});
  }
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
