#pragma once

#include <rora/core/operation.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

namespace rora::ops {
namespace detail {

/// Throws c10::ValueError for lists that are no pairs of matrices, or where one does not hold the other.
inline void check_padded_copy(at::TensorList to, at::TensorList from) {
  TORCH_CHECK_VALUE(to.size() == from.size(), to.size(), " places for ", from.size(), " matrices");
  for (size_t i = 0; i < to.size(); ++i) {
    TORCH_CHECK_VALUE(
        to[i].dim() == 2 && from[i].dim() == 2 && to[i].size(0) >= from[i].size(0) && to[i].size(1) >= from[i].size(1),
        "no place of ", to[i].sizes(), " for a matrix of ", from[i].sizes());
  }
}

} // namespace detail

namespace reference {

inline void copy_padded_(at::TensorList to, at::TensorList from) {
  detail::check_padded_copy(to, from);
  std::vector<at::Tensor> places;
  for (size_t i = 0; i < to.size(); ++i) {
    const int64_t rows = from[i].size(0), columns = from[i].size(1);
    const at::Tensor filled_rows = to[i].narrow(0, 0, rows);
    places.push_back(filled_rows.narrow(1, 0, columns));
    if (to[i].size(1) > columns) {
      filled_rows.narrow(1, columns, to[i].size(1) - columns).zero_();
    }
    if (to[i].size(0) > rows) {
      to[i].narrow(0, rows, to[i].size(0) - rows).zero_();
    }
  }
  if (!places.empty()) {
    at::_foreach_copy_(places, from);
  }
}

} // namespace reference

/// Copies each of the matrices `from` `[rows, columns]` into `to`, which may have more of either: zeros then. On a GPU,
/// 16 of float32 or bfloat16 are one launch. Throws for lists that are no pairs, and where one does not hold the other.
inline void copy_padded_(at::TensorList to, at::TensorList from) {
  if (!to.empty()) {
    detail::call_operation<reference::copy_padded_>("rora::copy_padded_", to, from);
  }
}

namespace detail {

/// How a device's products take A and B. A GPU's are fast where each matrix and each of its rows begins at a multiple
/// of 16 bytes: there, A and B are cast to x's dtype and every rank is padded with zeros to a multiple of 8.
struct LowRankForm {
  std::optional<at::ScalarType> dtype; ///< none: each matrix in its own
  int64_t rank_multiple = 1;

  static LowRankForm of_device(const at::Tensor& x) {
    constexpr int64_t kMultipleOfGpu = 8;
    return x.is_cpu() ? LowRankForm{} : LowRankForm{x.scalar_type(), kMultipleOfGpu};
  }

  int64_t padded(int64_t rank) const {
    return (rank + rank_multiple - 1) / rank_multiple * rank_multiple;
  }
};

/// Whether `next` goes on in memory where `matrix` ends, by rows (dim 0) or by columns (dim 1).
inline bool goes_on(const at::Tensor& matrix, const at::Tensor& next, int64_t dim) {
  return matrix.has_storage() && next.is_alias_of(matrix) && next.dtype() == matrix.dtype() &&
      next.strides() == matrix.strides() && next.size(1 - dim) == matrix.size(1 - dim) &&
      next.storage_offset() == matrix.storage_offset() + matrix.size(dim) * matrix.stride(dim);
}

/// Whether the `matrices` `[rank, in]` follow each other in one block of memory: then the block is what `vstack` gives.
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

/// The `matrices` `[rank, in]` stacked by rows, `[Σ padded rank, in]`, in the form's dtype; each is padded with rows of
/// zeros.
///
/// It copies only where it must. One matrix that needs no padding is returned as it is, in its own dtype: products cast
/// it themselves. Several that need neither padding nor a cast and follow each other in memory (`ParameterTable` keeps
/// the A of q, k and v so) are returned as one view. Anything else is one copy.
///
/// With `room` `[Σ padded rank, in]` of that dtype, they are copied there in any case.
inline at::Tensor vstack(
    const std::vector<at::Tensor>& matrices, const LowRankForm& form, const at::Tensor& room = {}) {
  int64_t rows = 0;
  bool needs_zeros = false;
  for (const at::Tensor& each : matrices) {
    const int64_t padded = form.padded(each.size(0));
    needs_zeros = needs_zeros || padded != each.size(0);
    rows += padded;
  }
  const at::ScalarType dtype = form.dtype.value_or(matrices[0].scalar_type());
  if (!room.defined() && !needs_zeros && matrices.size() == 1) {
    return matrices[0];
  }
  if (!room.defined() && !needs_zeros && dtype == matrices[0].scalar_type() && are_vstacked(matrices)) {
    return matrices[0].as_strided({rows, matrices[0].size(1)}, {matrices[0].size(1), 1});
  }
  const at::Tensor all =
      room.defined() ? room : at::empty({rows, matrices[0].size(1)}, matrices[0].options().dtype(dtype));
  std::vector<at::Tensor> places;
  int64_t begin = 0;
  for (const at::Tensor& each : matrices) {
    const int64_t padded = form.padded(each.size(0));
    places.push_back(all.narrow(0, begin, padded));
    begin += padded;
  }
  copy_padded_(places, matrices);
  return all;
}

/// Each of the `matrices` `[out, rank]` in the form's dtype with columns of zeros up to the padded rank, `[out, padded
/// rank]`: in the room of the same number where that is defined, which has these sizes and that dtype. Without room, a
/// matrix that has both already is returned as it is; all others are filled by one copy.
inline std::vector<at::Tensor> padded_columns(
    std::vector<at::Tensor> matrices, const LowRankForm& form, const std::vector<at::Tensor>& rooms = {}) {
  std::vector<at::Tensor> places, from;
  for (size_t i = 0; i < matrices.size(); ++i) {
    at::Tensor& each = matrices[i];
    const int64_t rank = each.size(1), padded = form.padded(rank);
    const at::Tensor room = i < rooms.size() ? rooms[i] : at::Tensor();
    const auto options = each.options().dtype(form.dtype.value_or(each.scalar_type()));
    if (room.defined() || padded != rank || options.dtype() != each.dtype()) {
      from.push_back(each);
      each = room.defined() ? room : at::empty({each.size(0), padded}, options);
      places.push_back(each);
    }
  }
  copy_padded_(places, from);
  return matrices;
}

/// Whether the `parts` `[tokens, rank]` are the columns of one dense matrix, in order and all of them: then that matrix
/// is what `hstack` gives.
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

/// Tensors `[tokens, rank]` to write parts into, so that `hstack` then has nothing to copy. A form that pads ranks
/// gives undefined ones: there `hstack` copies in any case.
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

/// The `parts` `[tokens, rank]` side by side, `[tokens, Σ padded rank]`, each padded with columns of zeros. Not copied:
/// one part that needs no padding, and parts that `are_hstacked` in a form that pads none.
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

} // namespace detail
} // namespace rora::ops
