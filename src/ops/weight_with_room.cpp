#include <rora/ops/weight_with_room.h>

#include <ATen/ATen.h>

#include <utility>

namespace rora::ops {
namespace {

/// Rows of a block, W, with numbers behind each of them and further rows below the last.
class WeightWithRoom : public DenseWeight {
 public:
  /// W is the first `in` columns of the first `out` rows of `block`. Its version is its own: what is written beside it
  /// and below is no change of W.
  WeightWithRoom(at::Tensor block, int64_t out, int64_t in)
      : DenseWeight(block.narrow(0, 0, out).narrow(1, 0, in).variable_data()), block_(std::move(block)) {}

  at::Tensor beside(int64_t columns) const override {
    const int64_t in = in_features();
    const bool fits = columns <= block_.size(1) - in;
    return fits && lies_in_block() ? block_.narrow(0, 0, out_features()).narrow(1, in, columns) : at::Tensor();
  }

  at::Tensor below(int64_t rows) const override {
    const int64_t out = out_features();
    const bool fits = rows <= block_.size(0) - out;
    return fits && lies_in_block() ? block_.narrow(0, out, rows).narrow(1, 0, in_features()) : at::Tensor();
  }

  int64_t prepacked_bytes() const override {
    return lies_in_block() ? static_cast<int64_t>(block_.nbytes() - tensor().nbytes()) : 0;
  }

 private:
  bool lies_in_block() const {
    const at::Tensor weight = tensor();
    return weight.is_alias_of(block_) && weight.storage_offset() == block_.storage_offset() &&
        weight.strides() == block_.strides() && weight.dtype() == block_.dtype();
  }

  at::Tensor block_; ///< `[out + room, in + room]`
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
