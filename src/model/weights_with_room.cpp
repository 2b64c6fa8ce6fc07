#include <rora/model/weights_with_room.h>

#include "frozen_projections.h"

#include <rora/ops/weight_with_room.h>

namespace rora {

void leave_room_beside_weights(CausalLM model, int64_t columns) {
  for (ProjectionImpl* projection : detail::frozen_projections(*model, "making room beside weights")) {
    projection->set_base(ops::weight_with_room(projection->weight, columns));
  }
}

} // namespace rora
