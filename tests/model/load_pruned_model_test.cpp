// Models whose layers differ in width, as structured pruning leaves them.
#include "model_copy.h"
#include "support/gradcheck.h"

#include <rora/adapters/attach.h>
#include <rora/model/decoder.h>

namespace rora {
namespace {

using testing::logits;
using testing::relative_error;
using testing::TemporaryFolder;
using testing::test_data;

class PrunedLlama : public testing::ModelCopy {
 protected:
  /// Layer 1 without its second group of heads and half of its MLP; `whole` is the same function at full width.
  CausalLM narrow() {
    layer_weight(1, "self_attn.o_proj").slice(1, 24).zero_();
    layer_weight(1, "mlp.down_proj").slice(1, 17).zero_();
    CausalLM whole = load_llama_now();
    for (const char* name :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"}) {
      at::Tensor& weight = layer_weight(1, name);
      const int64_t rows = std::string(name).starts_with("mlp") ? 17 : weight.size(0) / 2;
      weight = weight.slice(0, 0, rows).contiguous();
    }
    layer_weight(1, "self_attn.o_proj") = layer_weight(1, "self_attn.o_proj").slice(1, 0, 24).contiguous();
    layer_weight(1, "mlp.down_proj") = layer_weight(1, "mlp.down_proj").slice(1, 0, 17).contiguous();
    return whole;
  }

  /// Copies the weights out of the file, so that the test may replace it.
  CausalLM load_llama_now() {
    CausalLM model = load();
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : model->parameters()) {
      parameter.set_data(parameter.clone());
    }
    return model;
  }

  void expect_round_trip(CausalLM model) {
    TemporaryFolder saved;
    save_model(*model, saved.path());
    CausalLM again = load_model(saved.path());
    EXPECT_EQ(again->options.layer_shapes(), model->options.layer_shapes());
    EXPECT_TRUE(at::equal(logits(again), logits(model)));
  }
};

TEST_F(PrunedLlama, InfersTheWidthsOfEachLayer) {
  CausalLM whole = narrow();
  CausalLM pruned = load();
  EXPECT_EQ(pruned->options.layer_shapes(), (std::vector<LayerShape>{{4, 2, 40}, {2, 1, 17}}));
  EXPECT_LT(relative_error(logits(pruned), logits(whole)), 1e-6);
  expect_round_trip(pruned);
}

TEST_F(PrunedLlama, LoadsWhatItHasWrittenOfLayersThatAreAlike) {
  const std::vector<LayerShape> shapes{{2, 1, 17}, {2, 1, 0}, {0, 0, 17}};
  for (const LayerShape& shape : shapes) {
    const auto options = read_model_config(test_data("golden/model")).layer_shapes({shape, shape});
    DecoderForCausalLM pruned(options);
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : pruned->parameters()) {
      parameter.normal_(0.0, 0.2);
    }
    pruned->eval();
    TemporaryFolder saved;
    save_model(*pruned, saved.path());
    CausalLM again = load_model(saved.path());
    EXPECT_EQ(again->options.layer_shape(1), shape);
    EXPECT_TRUE(at::equal(logits(again), logits(pruned)));
  }
}

TEST_F(PrunedLlama, LacksAnAttentionOrAnMlp) {
  layer_weight(0, "self_attn.o_proj").zero_();
  layer_weight(1, "mlp.down_proj").zero_();
  CausalLM whole = load_llama_now();
  erase(0, {"input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"});
  erase(1, {"post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  CausalLM pruned = load();
  EXPECT_EQ(pruned->options.layer_shapes(), (std::vector<LayerShape>{{0, 0, 40}, {4, 2, 0}}));
  EXPECT_LT(relative_error(logits(pruned), logits(whole)), 1e-6);
  expect_round_trip(pruned);
}

TEST_F(PrunedLlama, IsAdaptedWhereItHasProjections) {
  narrow();
  erase(0, {"input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"});
  CausalLM pruned = load();
  const auto names = attach_adapters(*pruned, AdapterOptions().low_rank(LowRankOptions().rank(30)));
  EXPECT_EQ(names.size(), 10u);
  const LossSum loss = pruned->loss({at::arange(21).view({1, 21}), {}, {}}, at::arange(21).view({1, 21}));
  loss.sum.backward();
  for (const at::Tensor& parameter : adapter_parameters(*pruned)) {
    EXPECT_TRUE(parameter.grad().defined());
  }
}

} // namespace
} // namespace rora
