#include <rora/model/key_value_cache.h>

#include <ATen/ATen.h>

#include <algorithm>

namespace rora {

std::pair<at::Tensor, at::Tensor> KeyValueCache::append(
    size_t layer, const at::Tensor& keys, const at::Tensor& values) {
  if (layers_.size() <= layer) {
    layers_.resize(layer + 1);
  }
  const int64_t total = size_ + keys.size(2);
  const auto extend = [&](at::Tensor& buffer, const at::Tensor& added) {
    if (!buffer.defined() || buffer.size(2) < total) {
      auto sizes = added.sizes().vec();
      sizes[2] = std::max(total, 2 * size_);
      at::Tensor grown = at::empty(sizes, added.options());
      if (buffer.defined()) {
        grown.narrow(2, 0, size_).copy_(buffer.narrow(2, 0, size_));
      }
      buffer = grown;
    }
    buffer.narrow(2, size_, added.size(2)).copy_(added);
    return buffer.narrow(2, 0, total);
  };
  Layer& own = layers_[layer];
  return {extend(own.keys, keys), extend(own.values, values)};
}

void KeyValueCache::select(const at::Tensor& rows) {
  at::NoGradGuard no_grad; // as the buffers are written to in place
  const auto select = [&](at::Tensor& buffer) {
    auto sizes = buffer.sizes().vec();
    sizes[0] = rows.size(0);
    at::Tensor selected = at::empty(sizes, buffer.options());
    at::Tensor used = selected.narrow(2, 0, size_);
    at::index_select_out(used, buffer.narrow(2, 0, size_), 0, rows);
    buffer = selected;
  };
  for (Layer& layer : layers_) {
    if (layer.keys.defined()) {
      select(layer.keys);
      select(layer.values);
    }
  }
}

} // namespace rora
