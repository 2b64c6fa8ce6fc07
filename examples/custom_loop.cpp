// A training loop of one's own, with LibTorch's optimiser: custom_loop MODEL DATA OUTPUT
//
// Everything here is what `rora::Trainer` does in its simplest form; take what you need and change the rest.

#include <rora/adapters/attach.h>
#include <rora/adapters/peft_folder.h>
#include <rora/data/batch.h>
#include <rora/data/dataset.h>
#include <rora/model/pretrained.h>
#include <rora/text/tokenizer.h>

#include <c10/util/Exception.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <cstdio>
#include <exception>

namespace {

void train(const char* model_folder, const char* data_file, const char* output) {
  torch::manual_seed(0);

  // A frozen LLaMA, and RoRA adapters on its projections: the only parameters that require gradients.
  rora::CausalLM model = rora::load_model(model_folder);
  const auto options = rora::AdapterOptions().low_rank(rora::LowRankOptions().rank(16).alpha(16));
  rora::attach_adapters(*model, options);
  const auto parameters = rora::adapter_parameters(*model);

  // Alpaca, chat, text or tokenised records, as tokens with labels on the answers.
  const auto tokenizer = rora::load_tokenizer(model_folder);
  const rora::Dataset data = rora::load_dataset({data_file}, tokenizer.get(), rora::DatasetOptions().max_length(256));

  const auto batches = rora::BatchOptions().batch_size(8);
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(1e-3).weight_decay(0.0));
  model->train();
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    double sum = 0.0;
    int64_t tokens = 0;
    for (const auto& rows : rora::plan_epoch(data.examples, batches, epoch)) {
      const rora::Batch batch = rora::make_batch(data.examples, rows);
      optimizer.zero_grad();
      const rora::LossSum loss = model->loss({batch.input_ids, batch.attention_mask}, batch.labels);
      (loss.sum / static_cast<double>(loss.tokens)).backward();
      torch::nn::utils::clip_grad_norm_(parameters, 1.0);
      optimizer.step();
      sum += loss.sum.item<double>();
      tokens += loss.tokens;
    }
    std::printf("epoch %ld: loss %.4f\n", static_cast<long>(epoch + 1), sum / static_cast<double>(tokens));
  }

  // A folder that PEFT loads.
  rora::save_adapter(*model, output, rora::SaveAdapterOptions().base_model(model_folder));
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: custom_loop MODEL DATA OUTPUT\n");
    return 2;
  }
  try {
    train(argv[1], argv[2], argv[3]);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "custom_loop: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "custom_loop: %s\n", error.what());
    return 1;
  }
  return 0;
}
