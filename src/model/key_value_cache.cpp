#include <rora/model/key_value_cache.h>

#include <ATen/ATen.h>

#include <algorithm>

namespace rora {

KeyValueCache::Layer& KeyValueCache::at(size_t layer) {
  if (layers_.size() <= layer) {
    layers_.resize(layer + 1);
  }
  return layers_[layer];
}

void KeyValueCache::put_prefix(size_t layer, const at::Tensor& keys, const at::Tensor& values) {
  TORCH_CHECK_VALUE(size_ == 0, "a prefix comes before the tokens of a key-value cache");
  at(layer) = {keys.clone(at::MemoryFormat::Contiguous), values.clone(at::MemoryFormat::Contiguous), keys.size(2)};
}

std::pair<at::Tensor, at::Tensor> KeyValueCache::append(
    size_t layer, const at::Tensor& keys, const at::Tensor& values) {
  Layer& own = at(layer);
  const int64_t held = own.prefix + size_;
  const int64_t total = held + keys.size(2);
  const auto extend = [&](at::Tensor& buffer, const at::Tensor& added) {
    if (!buffer.defined() || buffer.size(2) < total) {
      auto sizes = added.sizes().vec();
      sizes[2] = std::max(total, own.prefix + 2 * size_);
      at::Tensor grown = at::empty(sizes, added.options());
      if (buffer.defined()) {
        grown.narrow(2, 0, held).copy_(buffer.narrow(2, 0, held));
      }
      buffer = grown;
    }
    buffer.narrow(2, held, added.size(2)).copy_(added);
    return buffer.narrow(2, 0, total);
  };
  return {extend(own.keys, keys), extend(own.values, values)};
}

void KeyValueCache::select(const at::Tensor& rows) {
  at::NoGradGuard no_grad; // as the buffers are written to in place
  const auto select = [&](at::Tensor& buffer, int64_t held) {
    auto sizes = buffer.sizes().vec();
    sizes[0] = rows.size(0);
    at::Tensor selected = at::empty(sizes, buffer.options());
    at::Tensor used = selected.narrow(2, 0, held);
    at::index_select_out(used, buffer.narrow(2, 0, held), 0, rows);
    buffer = selected;
  };
  for (Layer& layer : layers_) {
    if (layer.keys.defined()) {
      select(layer.keys, layer.prefix + size_);
      select(layer.values, layer.prefix + size_);
    }
  }
}

} // namespace rora
