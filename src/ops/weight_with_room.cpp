#include <rora/ops/weight_with_room.h>

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <utility>

namespace rora::ops {
namespace {

/// Rows of a block, W, with numbers behind each of them and further rows below the last.
class WeightWithRoom : public DenseWeight {
 public:
  /// W is the first `in` columns of the first `out` rows of `block`. Its version is its own: what is written beside it
  /// and below is no change of W.
  WeightWithRoom(const at::Tensor& block, int64_t out, int64_t in)
      : DenseWeight(block.narrow(0, 0, out).narrow(1, 0, in).variable_data()),
        storage_(block.storage().getWeakStorageImpl()),
        offset_(block.storage_offset()),
        rows_(block.size(0)),
        columns_(block.size(1)),
        dtype_(block.scalar_type()) {}

  at::Tensor beside(int64_t columns) const override {
    const int64_t in = in_features();
    return columns <= columns_ - in && lies_in_block() ? part(out_features(), columns, in) : at::Tensor();
  }

  at::Tensor below(int64_t rows) const override {
    const int64_t out = out_features();
    return rows <= rows_ - out && lies_in_block() ? part(rows, in_features(), out * columns_) : at::Tensor();
  }

  int64_t prepacked_bytes() const override {
    const at::Tensor w = tensor();
    return lies_in_block() ? (rows_ * columns_ - w.numel()) * static_cast<int64_t>(w.element_size()) : 0;
  }

 private:
  bool lies_in_block() const {
    const at::Tensor w = tensor();
    return w.storage().unsafeGetStorageImpl() == storage_._unsafe_get_target() && w.storage_offset() == offset_ &&
        w.strides() == at::IntArrayRef{columns_, 1} && w.scalar_type() == dtype_;
  }

  /// The numbers of the block from the `begin`-th on; written to, they are no change of W.
  at::Tensor part(int64_t rows, int64_t columns, int64_t begin) const {
    return tensor().variable_data().as_strided({rows, columns}, {columns_, 1}, offset_ + begin);
  }

  // Held weakly: once W has been moved, nothing keeps the block.
  c10::weak_intrusive_ptr<c10::StorageImpl> storage_;
  int64_t offset_;
  int64_t rows_, columns_; ///< of the block, `[out + room, in + room]`
  at::ScalarType dtype_;
};

} // namespace

std::vector<std::shared_ptr<LinearWeight>> weights_with_room(const std::vector<at::Tensor>& weights, int64_t rank) {
  TORCH_CHECK_VALUE(!weights.empty() && rank > 0, "room is left beside one weight or more, for a rank of 1 or more");
  constexpr int64_t kWholeRow = 8; // 16 bytes of bfloat16, as products are fast with
  const auto padded = [](int64_t count) { return (count + kWholeRow - 1) / kWholeRow * kWholeRow; };
  int64_t out = 0;
  for (const at::Tensor& weight : weights) {
    TORCH_CHECK_VALUE(weight.dim() == 2, "a weight is [out, in], not ", weight.sizes());
    TORCH_CHECK_VALUE(
        weight.size(1) == weights[0].size(1) && weight.dtype() == weights[0].dtype() &&
            weight.device() == weights[0].device(),
        "weights that lie below each other have one number of columns, one dtype and one device");
    out += weight.size(0);
  }
  const int64_t in = weights[0].size(1), below = static_cast<int64_t>(weights.size()) * padded(rank);
  const at::NoGradGuard no_grad;
  const at::Tensor block = at::empty({out + below, padded(in + padded(rank))}, weights[0].options());
  block.narrow(1, in, block.size(1) - in).zero_();
  block.narrow(0, out, below).zero_();
  std::vector<std::shared_ptr<LinearWeight>> stored;
  int64_t row = 0;
  for (const at::Tensor& weight : weights) {
    const int64_t rows = weight.size(0), room = stored.size() + 1 == weights.size() ? below : 0;
    block.narrow(0, row, rows).narrow(1, 0, in).copy_(weight);
    stored.push_back(std::make_shared<WeightWithRoom>(block.narrow(0, row, rows + room), rows, in));
    row += rows;
  }
  return stored;
}

} // namespace rora::ops
