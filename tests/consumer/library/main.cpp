// Three steps of fine-tuning a LLaMA with the installed library.
#include <rora/adapters/attach.h>
#include <rora/model/decoder.h>
#include <rora/training/trainer.h>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>

#include <cstdio>
#include <vector>

int main() {
  at::manual_seed(0);
  auto options = rora::DecoderOptions().vocab_size(32).hidden_size(32).intermediate_size(48).num_hidden_layers(2);
  auto model = rora::DecoderForCausalLM(options.num_attention_heads(4).num_key_value_heads(2));
  {
    at::NoGradGuard no_grad;
    for (at::Tensor& parameter : model->parameters()) {
      parameter.dim() == 1 ? parameter.fill_(1) : parameter.normal_(0, 0.1);
    }
  }
  rora::attach_adapters(*model, rora::AdapterOptions().low_rank(rora::LowRankOptions().rank(4).alpha(8)));

  const std::vector<int64_t> ids{1, 7, 3, 9, 4, 11, 2};
  auto trainer = rora::Trainer(model, {{ids, ids}}, rora::TrainerOptions().lr(1e-2).max_steps(3));
  std::vector<double> losses;
  trainer.set_callback([&](const rora::StepMetrics& step) {
    std::printf("step %d loss %.4f\n", static_cast<int>(step.step), step.loss);
    losses.push_back(step.loss);
  });
  trainer.train();
  return losses.size() == 3 && losses[1] < losses[0] && losses[2] < losses[1] ? 0 : 1;
}
