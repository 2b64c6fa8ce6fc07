// RoRALinear where nothing but the headers and LibTorch is linked.
#include <rora/core/rora_linear.h>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdio>

int main() {
  if (c10::Dispatcher::singleton().findSchema({"rora::sum_of_products", ""})) {
    std::puts("the library is linked: this says nothing of the headers alone");
    return 1;
  }
  at::manual_seed(0);
  rora::RoRALinear layer(rora::RoRALinearOptions(6, 4).rank(2).dora(true));
  const at::Tensor x = at::randn({5, 6}), y = layer->forward(x);
  y.square().sum().backward();
  const bool frozen = y.allclose(at::linear(x, layer->weight));
  const bool trains = layer->low_rank()->lora_B.grad().abs().sum().item<double>() > 0.0;
  std::printf("begins as the frozen layer: %d, B has a gradient: %d\n", frozen, trains);
  return frozen && trains ? 0 : 1;
}
