#include <rora/ops/weight_with_room.h>

#include <ATen/ATen.h>

#include <utility>

namespace rora::ops {
namespace {

class WeightWithRoom : public DenseWeight {
 public:
  /// W is the first `in` columns of `block`.
  WeightWithRoom(at::Tensor block, int64_t in) : DenseWeight(block.narrow(1, 0, in)), block_(std::move(block)) {}

  at::Tensor beside(int64_t columns) const override {
    const at::Tensor weight = tensor();
    const bool in_place = weight.is_alias_of(block_) && weight.storage_offset() == block_.storage_offset() &&
        weight.strides() == block_.strides() && weight.dtype() == block_.dtype();
    const int64_t in = weight.size(1);
    return in_place && columns <= block_.size(1) - in ? block_.narrow(1, in, columns) : at::Tensor();
  }

 private:
  at::Tensor block_; ///< `[out, in + room]`
};

} // namespace

std::shared_ptr<LinearWeight> weight_with_room(const at::Tensor& weight, int64_t columns) {
  TORCH_CHECK_VALUE(weight.dim() == 2, "a weight is [out, in], not ", weight.sizes());
  TORCH_CHECK_VALUE(columns > 0, "a weight with room has at least one column more");
  constexpr int64_t kWholeRow = 8; // 16 bytes of bfloat16, as products are fast with
  const int64_t in = weight.size(1);
  const int64_t width = (in + columns + kWholeRow - 1) / kWholeRow * kWholeRow;
  const at::NoGradGuard no_grad;
  at::Tensor block = at::empty({weight.size(0), width}, weight.options());
  block.narrow(1, 0, in).copy_(weight);
  block.narrow(1, in, width - in).zero_();
  return std::make_shared<WeightWithRoom>(std::move(block), in);
}

} // namespace rora::ops
