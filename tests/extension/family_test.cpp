/// A model family in one file: a config reader and writer and the names of its tensors. Everything else, from loading
/// to training and merging, goes as for the library's own.

#include "training.h"

#include <rora/checkpoint/model_folder.h>
#include <rora/model/families/family.h>
#include <rora/model/pretrained.h>

#include <gmock/gmock.h>

namespace rora {
namespace {

using testing::adapter_values;
using ::testing::Contains;
using testing::logits;
using testing::TemporaryFolder;

/// Biases of q, k and v, norms of each head's q and k, and layers without rotary positions.
class ToyFamily : public ModelFamily {
 public:
  std::string model_type() const override {
    return "toy";
  }

  std::string architecture() const override {
    return "ToyForCausalLM";
  }

  DecoderOptions read_config(const JsonObject& config) const override {
    if (config.has("sliding_window")) {
      config.fail("sliding_window", "is not supported");
    }
    ProjectionBiases bias;
    bias.q = bias.k = bias.v = true;
    return read_shared_config(*this, config).bias(bias).qk_norm(true).no_rope_layers(config.integers("no_rope_layers"));
  }

  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    return write_shared_config(*this, options, torch_dtype);
  }

  std::vector<std::pair<std::string, std::string>> renamed_parts() const override {
    return {
        {"model.layers", "transformer.h"},
        {"model.embed_tokens", "transformer.wte"},
        {"model.norm", "transformer.ln_f"},
        {"self_attn.q_proj", "attn.query"},
        {"self_attn", "attn"}};
  }
};

const ModelFamily& toy() {
  static const bool registered = [] {
    register_model_family(std::make_shared<ToyFamily>());
    return true;
  }();
  EXPECT_TRUE(registered);
  return family_of("toy");
}

/// A folder of a toy with random weights, as another program would have left it.
void write_toy(const std::filesystem::path& folder) {
  ProjectionBiases bias;
  bias.q = bias.k = bias.v = true;
  const auto options = DecoderOptions()
                           .model_type("toy")
                           .vocab_size(32)
                           .hidden_size(16)
                           .intermediate_size(24)
                           .num_hidden_layers(2)
                           .num_attention_heads(4)
                           .num_key_value_heads(2)
                           .max_position_embeddings(64)
                           .bias(bias)
                           .qk_norm(true)
                           .no_rope_layers({1, 0});
  at::NoGradGuard no_grad;
  at::manual_seed(1);
  CausalLM model = toy().make(options);
  for (at::Tensor parameter : model->parameters()) {
    parameter.normal_(parameter.dim() > 1 ? 0.0 : 0.5, 0.2);
  }
  save_model(*model, folder);
}

class ToyFamilyTest : public ::testing::Test {
 protected:
  ToyFamilyTest() {
    write_toy(folder / "model");
  }

  /// Trains adapters of the folder's model until `stop_after` steps were taken, from where the folder's last checkpoint
  /// left off.
  CausalLM train(const std::filesystem::path& output, int64_t stop_after = 100) {
    CausalLM model = load_model(folder / "model");
    at::manual_seed(31);
    attach_adapters(*model, options);
    testing::train_in(output, model, TrainerOptions().lr(1e-2).max_steps(6), stop_after);
    model->eval();
    return model;
  }

  TemporaryFolder folder;
  AdapterOptions options = AdapterOptions().low_rank(LowRankOptions().rank(2).dropout(0.1));
};

TEST_F(ToyFamilyTest, IsLoadedByItsModelTypeAndNames) {
  const auto names = ModelFolder(folder / "model").names();
  EXPECT_THAT(names, Contains("transformer.h.1.attn.query.bias"));
  EXPECT_THAT(names, Contains("transformer.h.0.attn.k_norm.weight"));
  EXPECT_THAT(names, Contains("transformer.wte.weight"));
  CausalLM model = load_model(folder / "model");
  EXPECT_EQ(model->options.no_rope_layers(), (std::vector<int64_t>{1, 0}));
  save_model(*model, folder / "again");
  EXPECT_TRUE(at::equal(logits(load_model(folder / "again")), logits(model)));
}

TEST_F(ToyFamilyTest, IsTrainedSavedAndResumedBitForBit) {
  CausalLM base = load_model(folder / "model");
  CausalLM whole = train(folder / "whole");
  EXPECT_FALSE(at::equal(logits(whole), logits(base)));
  train(folder / "resumed", 3);
  EXPECT_TRUE(std::filesystem::exists(folder / "resumed" / "checkpoint-3" / "adapter_model.safetensors"));
  CausalLM resumed = train(folder / "resumed");
  EXPECT_TRUE(at::equal(adapter_values(resumed), adapter_values(whole)));
}

TEST_F(ToyFamilyTest, TakesItsAdapterBackAndItsMergedFolder) {
  CausalLM trained = train(folder / "run");
  save_adapter(*trained, folder / "adapter");
  CausalLM adapted = load_model(folder / "model");
  load_adapter(*adapted, folder / "adapter");
  EXPECT_TRUE(at::equal(logits(adapted), logits(trained)));
  merge_adapters(*trained);
  save_model(*trained, folder / "merged");
  EXPECT_TRUE(at::equal(logits(load_model(folder / "merged")), logits(trained)));
  EXPECT_LT((logits(trained) - logits(adapted)).abs().max().item<double>(), 1e-4);
}

} // namespace
} // namespace rora
