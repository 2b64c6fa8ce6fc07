#pragma once

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

namespace rora::ops {

/// Memory `[tokens, Σ widths]` in which the gradients of a node's outputs lie side by side, and behind them its dS:
/// dx = Σ dyᵢ·Wᵢ + dS·A is on a GPU one product of (dy₀ | dy₁ | … | dS) and (W₀ ; W₁ ; … ; A), wherever these lie below
/// each other too.
///
/// Made anew in each backward pass, by the first who asks for a place; the node takes it. A gradient that was written
/// elsewhere is right as well: the node looks where it lies. On a GPU, all who ask run on one stream.
class GradientRows : public torch::CustomClassHolder {
 public:
  explicit GradientRows(std::vector<int64_t> widths) : widths_(std::move(widths)), given_(widths_.size()) {}

  const std::vector<int64_t>& widths() const {
    return widths_;
  }

  /// The place number i `[tokens, widths[i]]`. Each is given once: who asks again is of another backward pass.
  at::Tensor place(size_t i, int64_t tokens, const at::TensorOptions& options) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool fits = block_.defined() && block_.size(0) == tokens && block_.dtype() == options.dtype() &&
        block_.device() == options.device() && !given_[i];
    if (!fits) {
      block_ = empty_block(tokens, options);
      given_.assign(widths_.size(), false);
    }
    given_[i] = true;
    return block_.split_with_sizes(widths_, 1)[i];
  }

  struct Taken {
    std::vector<at::Tensor> places;
    std::vector<bool> given; ///< which of them anybody has asked for
  };
  /// All places where any was given; no places else.
  Taken take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const at::Tensor block = std::exchange(block_, at::Tensor());
    return block.defined() ? Taken{block.split_with_sizes(widths_, 1), given_} : Taken();
  }

  /// Such places that nobody else is given.
  std::vector<at::Tensor> fresh(int64_t tokens, const at::TensorOptions& options) const {
    return empty_block(tokens, options).split_with_sizes(widths_, 1);
  }

 private:
  at::Tensor empty_block(int64_t tokens, const at::TensorOptions& options) const {
    return at::empty({tokens, std::accumulate(widths_.begin(), widths_.end(), int64_t{0})}, options);
  }

  std::mutex mutex_;
  std::vector<int64_t> widths_;
  at::Tensor block_;
  std::vector<bool> given_; ///< of the block
};

/// Where the gradient of one tensor is to be written.
struct GradientPlace {
  c10::intrusive_ptr<GradientRows> rows{}; ///< null: anywhere
  size_t number = 0; ///< among the places of `rows`

  /// Memory of x's sizes `[..., width]`; undefined where the gradient may lie anywhere.
  at::Tensor like(const at::Tensor& x) const {
    return for_rows(x, x.size(-1));
  }

  /// Memory of x's sizes, whose last dimensions make up a row of `width` numbers.
  at::Tensor for_rows(const at::Tensor& x, int64_t width) const {
    if (rows == nullptr || rows->widths()[number] != width || x.numel() == 0) {
      return {};
    }
    return rows->place(number, x.numel() / width, x.options().requires_grad(false)).view(x.sizes());
  }
};

} // namespace rora::ops
