#include <rora/model/prepared_input.h>

#include "../ops/to_device.h"

#include <ATen/ATen.h>

namespace rora {
namespace {

template <class Prepared>
Prepared moved(Prepared prepared, at::Device device) {
  for (at::Tensor* each : prepared.tensors()) {
    if (each->defined()) {
      *each = ops::detail::to_device(*each, device);
    }
  }
  return prepared;
}

} // namespace

std::vector<at::Tensor*> PreparedInput::tensors() {
  return {&input_ids, &positions, &frequencies, &sliding_frequencies, &sequences.ids, &sequences.boundaries, &chosen};
}

PreparedInput PreparedInput::on(at::Device device) const {
  return moved(*this, device);
}

std::vector<at::Tensor*> PreparedLoss::tensors() {
  std::vector<at::Tensor*> all = input.tensors();
  all.push_back(&targets);
  return all;
}

PreparedLoss PreparedLoss::on(at::Device device) const {
  return moved(*this, device);
}

} // namespace rora
