// RoRALinear in a loop of LibTorch's own: the header-only core, without the library.
#include <rora/core/rora_linear.h>

#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <torch/optim/adamw.h>

#include <cstdio>

int main() {
  at::manual_seed(0);
  auto options = rora::RoRALinearOptions(16, 8).rank(4).alpha(8).scaling(rora::Scaling::kRankStabilized).dora(true);
  auto layer = rora::RoRALinear(options);
  const at::Tensor frozen = layer->weight.detach().clone();
  const at::Tensor x = at::randn({64, 16});
  const at::Tensor target = at::randn({64, 8});

  torch::optim::AdamW optimizer(layer->adapter_parameters(), torch::optim::AdamWOptions(1e-2).weight_decay(0));
  double first = 0;
  double last = 0;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    const at::Tensor loss = (layer->forward(x) - target).square().mean();
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    first = step == 0 ? last : first;
  }

  const at::Tensor before = layer->forward(x).detach();
  layer->merge();
  const bool merges = layer->forward(x).allclose(before, /*rtol=*/1e-4, /*atol=*/1e-5);
  layer->unmerge();
  const bool keeps_base = layer->weight.equal(frozen);
  std::printf("loss %.4f -> %.4f, merged equals unmerged: %d, base kept: %d\n", first, last, merges, keeps_base);
  return last < 0.9 * first && merges && keeps_base ? 0 : 1;
}
