#include <rora/model/pretrained.h>

#include "model_copy.h"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

namespace rora {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::logits;
using testing::message_of;
using ::testing::StartsWith;
using testing::TemporaryFolder;
using testing::test_data;

using LoadLlama = testing::ModelCopy;

TEST_F(LoadLlama, ReadsTheUnchangedCopy) {
  CausalLM original = load_model(test_data("golden/model"));
  CausalLM copy = load();
  EXPECT_TRUE(at::equal(logits(copy), logits(original)));
}

TEST_F(LoadLlama, NamesAMissingTensor) {
  for (const char* name :
       {"model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.o_proj.weight", "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.down_proj.weight"}) {
    const auto node = tensors.extract(name);
    EXPECT_EQ(failure(), std::string(": tensor ") + name + " is missing");
    tensors[name] = node.mapped();
  }
  tensors.erase("model.embed_tokens.weight");
  EXPECT_EQ(failure(), ": neither model.embed_tokens.weight nor lm_head.weight is there");
}

TEST_F(LoadLlama, RefusesAHeadAloneThatIsNotTied) {
  tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight");
  tensors.erase("model.embed_tokens.weight");
  EXPECT_THAT(failure_with("tie_word_embeddings", false), HasSubstr("model.embed_tokens.weight is missing"));
}

TEST_F(LoadLlama, RefusesAMissingHeadThatIsNotTied) {
  for (const json& value : {json(false), json()}) {
    EXPECT_THAT(
        failure_with("tie_word_embeddings", value),
        HasSubstr("lm_head.weight is missing, and tie_word_embeddings is false"));
  }
}

TEST_F(LoadLlama, TakesBiasesUnlessTheConfigSaysThatThereAreNone) {
  for (const char* layer : {"0", "1"}) {
    for (const char* name : {"q", "k", "v", "o"}) {
      const std::string projection = std::string("model.layers.") + layer + ".self_attn." + name + "_proj.";
      tensors[projection + "bias"] = at::ones({tensors.at(projection + "weight").size(0)});
    }
  }
  config["attention_bias"] = nullptr;
  EXPECT_TRUE(load()->options.bias().q);
  EXPECT_THAT(
      failure_with("attention_bias", false),
      HasSubstr("/config.json: attention_bias is false, but model.layers.0.self_attn.q_proj.bias is there"));
}

TEST_F(LoadLlama, NamesATensorThatIsNotTheModels) {
  for (const char* name :
       {"model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.down_proj.bias", "score.weight"}) {
    tensors[name] = at::ones({4});
    EXPECT_EQ(failure(), std::string("/model.safetensors: tensor ") + name + " is not one of this model's");
    tensors.erase(name);
  }
}

TEST_F(LoadLlama, IgnoresStoredRotaryFrequencies) {
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({6});
  EXPECT_NO_THROW(load());
}

TEST_F(LoadLlama, NamesAMisshapenTensor) {
  layer_weight(0, "self_attn.o_proj") = at::ones({48, 32});
  EXPECT_EQ(
      failure(), "/model.safetensors: model.layers.0.self_attn.o_proj.weight must have shape [32, 48], not [48, 32]");
  layer_weight(0, "self_attn.o_proj") = at::ones({32 * 48});
  EXPECT_THAT(failure(), HasSubstr("o_proj.weight must have shape [32, 48], not [1536]"));
}

TEST_F(LoadLlama, NamesAProjectionThatIsNoMatrixOrOfPartialHeads) {
  layer_weight(1, "self_attn.q_proj") = at::ones({48});
  EXPECT_THAT(failure(), HasSubstr("layers.1.self_attn.q_proj.weight must have two dimensions, not [48]"));
  layer_weight(1, "self_attn.q_proj") = at::ones({47, 32});
  EXPECT_THAT(failure(), HasSubstr("layers.1.self_attn.q_proj.weight has 47 rows, which head_dim 12 does not divide"));
  layer_weight(1, "self_attn.q_proj") = at::ones({36, 32});
  EXPECT_THAT(failure(), HasSubstr("layer 1: num_attention_heads 3 is not a multiple of num_key_value_heads 2"));
}

TEST_F(LoadLlama, NamesATensorThatIsNotFinite) {
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      at::Tensor& weight = layer_weight(1, "mlp.up_proj");
      const at::Tensor kept = weight;
      weight = kept.to(dtype, /*non_blocking=*/false, /*copy=*/true);
      weight[39][31] = value;
      EXPECT_EQ(failure(), "/model.safetensors: model.layers.1.mlp.up_proj.weight holds NaN or infinite values");
      weight = kept;
    }
  }
}

TEST_F(LoadLlama, TakesFiniteWeightsWhoseSumIsNot) {
  layer_weight(1, "mlp.up_proj").fill_(3e38);
  EXPECT_NO_THROW(load());
}

TEST_F(LoadLlama, NamesATensorOfIntegers) {
  layer_weight(0, "mlp.up_proj") = at::ones({40, 32}, at::kInt);
  EXPECT_THAT(failure(), HasSubstr("mlp.up_proj.weight must be of floating point, not Int"));
}

TEST_F(LoadLlama, NamesTheFieldThatContradictsTheTensors) {
  EXPECT_THAT(
      failure_with("vocab_size", 191),
      HasSubstr("model.embed_tokens.weight must be [vocab_size, hidden_size] [191, 32]"));
  EXPECT_THAT(failure_with("hidden_size", 40), HasSubstr("[192, 40] of config.json, not [192, 32]"));
  const std::string layers = "/config.json: num_hidden_layers is ";
  EXPECT_EQ(failure_with("num_hidden_layers", 1), layers + "1, but there are tensors of more layers");
  EXPECT_EQ(failure_with("num_hidden_layers", 3), layers + "3, but there are tensors of fewer layers");
  EXPECT_EQ(failure_with("num_hidden_layers", 10'000), layers + "10000, but there are tensors of fewer layers");
  EXPECT_THAT(
      failure_with("num_hidden_layers", int64_t{1} << 60), HasSubstr("num_hidden_layers must be at most 10000"));
  EXPECT_THAT(failure_with("head_dim", 10), HasSubstr("q_proj.weight has 48 rows, which head_dim 10 does not divide"));
}

TEST_F(LoadLlama, NamesTheFieldThatContradictsAnotherOrIsNotSupported) {
  const std::vector<std::pair<std::string, json>> bad{
      {"hidden_size", 0},
      {"hidden_size", "32"},
      {"hidden_size", nullptr},
      {"vocab_size", -1},
      {"intermediate_size", 0},
      {"num_attention_heads", 3},
      {"num_attention_heads", 0},
      {"num_key_value_heads", -2},
      {"head_dim", 11},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", "1e-5"},
      {"tie_word_embeddings", 1},
      {"eos_token_id", "</s>"},
      {"model_type", "bert"},
      {"hidden_act", "gelu"},
      {"attention_dropout", 0.1},
      {"sliding_window", 4096},
      {"partial_rotary_factor", 0.5},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"rope_parameters", 5},
      {"rope_scaling", json::array()}};
  for (const auto& [field, value] : bad) {
    const std::string message = failure_with(field, value);
    EXPECT_THAT(message, StartsWith("/config.json: ")) << value;
    EXPECT_THAT(message, HasSubstr(field)) << value;
  }
  config.erase("rope_parameters");
  EXPECT_THAT(failure_with("rope_theta", 0), HasSubstr("rope_theta must be positive"));
  EXPECT_NO_THROW(load());
}

TEST_F(LoadLlama, NamesTheRotaryFieldThatIsNotSupported) {
  const std::vector<std::pair<std::string, json>> bad{
      {"rope_parameters.rope_type", {{"rope_type", "yarn"}, {"factor", 2.0}}},
      {"rope_parameters.rope_type", {{"type", "su"}, {"factor", 2.0}}},
      {"rope_parameters.factor", {{"rope_type", "linear"}}},
      {"rope_parameters.factor", {{"rope_type", "dynamic"}, {"factor", "2"}}},
      {"factor", {{"rope_type", "linear"}, {"factor", 0}}},
      {"rope_parameters.low_freq_factor", {{"rope_type", "llama3"}, {"factor", 8}}},
      {"rope_parameters.high_freq_factor",
       {{"rope_type", "llama3"},
        {"factor", 8},
        {"low_freq_factor", 4},
        {"high_freq_factor", 4},
        {"original_max_position_embeddings", 64}}},
      {"rope_parameters.partial_rotary_factor", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}},
      {"rope_parameters.full_attention", {{"full_attention", {{"rope_type", "default"}}}}}};
  for (const auto& [field, value] : bad) {
    EXPECT_THAT(failure_with("rope_parameters", value), HasSubstr(field)) << value;
  }
}

TEST_F(LoadLlama, SaysWhichFileIsMissingOrIsNoJson) {
  write();
  std::filesystem::remove(folder / "config.json");
  EXPECT_THAT(message_of<FileError>([&] { load_model(folder.path()); }), HasSubstr("/config.json: "));
  write_file(folder / "config.json", "{\"hidden_size\": 32,");
  EXPECT_THAT(message_of<FormatError>([&] { load_model(folder.path()); }), HasSubstr("/config.json: "));
  write();
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_THAT(message_of<FileError>([&] { load_model(folder.path()); }), HasSubstr("holds neither model.safetensors"));
}

TEST_F(LoadLlama, NamesALayerThatIsMissingWhole) {
  std::erase_if(tensors, [](const auto& named) { return named.first.starts_with("model.layers.0."); });
  EXPECT_EQ(failure(), ": all tensors of model.layers.0 are missing");
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({6});
  EXPECT_EQ(failure(), ": all tensors of model.layers.0 are missing");
}

TEST_F(LoadLlama, BringsMixedDtypesToTheConfigsOrTheEmbeddings) {
  tensors.at("model.norm.weight") = tensors.at("model.norm.weight").to(at::kBFloat16);
  for (auto& [name, tensor] : tensors) {
    tensor = name.ends_with("_proj.weight") ? tensor.to(at::kHalf) : tensor;
  }
  const auto expect_dtype = [&](at::ScalarType dtype) {
    CausalLM model = load();
    for (const auto& item : model->named_parameters()) {
      EXPECT_EQ(item.value().scalar_type(), dtype) << item.key();
    }
    EXPECT_TRUE(at::isfinite(logits(model)).all().item<bool>());
  };
  config.erase("dtype");
  config.erase("torch_dtype");
  expect_dtype(at::kFloat);
  config["torch_dtype"] = "bfloat16";
  expect_dtype(at::kBFloat16);
  config["dtype"] = "float32";
  expect_dtype(at::kFloat);
  EXPECT_THAT(failure_with("dtype", "int8"), HasSubstr("/config.json: dtype 'int8' is not supported"));
}

TEST_F(LoadLlama, NamesTheWidthThatContradictsLayersThatAreAlike) {
  const std::string believes = ", and all layers are alike (infer_widths takes the tensors at their word)";
  EXPECT_EQ(
      failure_with("num_attention_heads", 2),
      "/config.json: num_attention_heads is 2, but model.layers.0.self_attn.q_proj.weight [48, 32] has 4 heads of "
      "head_dim 12" +
          believes);
  EXPECT_EQ(
      failure_with("num_key_value_heads", 1),
      "/config.json: num_key_value_heads is 1, but model.layers.0.self_attn.k_proj.weight [24, 32] has 2 heads of "
      "head_dim 12" +
          believes);
  EXPECT_THAT(failure_with("num_key_value_heads", nullptr), HasSubstr("num_key_value_heads is 4, but"));
  EXPECT_EQ(
      failure_with("intermediate_size", 41),
      "/config.json: intermediate_size is 41, but model.layers.0.mlp.gate_proj.weight [40, 32] has 40 rows" + believes);
  EXPECT_THAT(failure_with("intermediate_size", 0), HasSubstr("intermediate_size is 0, but"));
  EXPECT_THAT(failure_with("num_attention_heads", 0), HasSubstr("num_attention_heads is 0, but"));
  // Here head_dim is hidden_size / num_attention_heads: 16, of which q has three heads and k one and a half.
  config.erase("head_dim");
  EXPECT_THAT(failure_with("num_attention_heads", 2), HasSubstr("which head_dim 16 does not divide"));
}

TEST_F(LoadLlama, BelievesTensorsInsteadWhereThatIsAskedFor) {
  config["num_attention_heads"] = 2;
  config["num_key_value_heads"] = 1;
  config["intermediate_size"] = 99;
  write();
  CausalLM model = load_model(folder.path(), LoadModelOptions().infer_widths(true));
  EXPECT_EQ(model->options.layer_shape(1), (LayerShape{4, 2, 40}));
  EXPECT_TRUE(at::equal(logits(model), logits(load_model(test_data("golden/model")))));
  // The folder that is written of it says what is there.
  TemporaryFolder saved;
  save_model(*model, saved.path());
  EXPECT_TRUE(at::equal(logits(load_model(saved.path())), logits(model)));
}

TEST_F(LoadLlama, RefusesSizesOfTensorsWithoutElementsBeforeAnythingIsMadeOfThem) {
  for (const int64_t layer : {0, 1}) {
    layer_weight(layer, "mlp.gate_proj") = at::empty({int64_t{1} << 40, 0});
  }
  config["intermediate_size"] = int64_t{1} << 30;
  EXPECT_THAT(failure(), HasSubstr("mlp.gate_proj.weight must have the 32 columns of config.json's hidden_size"));
}

TEST_F(LoadLlama, RefusesSizesThatNoModelHas) {
  for (const char* field :
       {"vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"}) {
    for (const int64_t value : {int64_t{1} << 31, std::numeric_limits<int64_t>::max()}) {
      EXPECT_THAT(failure_with(field, value), HasSubstr(std::string(field) + " must be at most 2147483647, not "));
    }
  }
}

/// Whether an address lies in a mapping of the file.
bool is_mapped(const void* address, const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/maps");
  const auto place = reinterpret_cast<uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2 && begin <= place && place < end) {
      return line.ends_with(file.string());
    }
  }
  return false;
}

TEST(LoadLlamaMapping, CopiesWeightsOnlyForAnotherDtype) {
  const auto folder = std::filesystem::canonical(test_data("golden/model"));
  for (const auto dtype : {std::optional<at::ScalarType>(), std::optional(at::kFloat), std::optional(at::kBFloat16)}) {
    const CausalLM model = load_model(folder, dtype);
    for (const auto& item : model->named_parameters()) {
      EXPECT_EQ(is_mapped(item.value().data_ptr(), folder / "model.safetensors"), dtype != at::kBFloat16) << item.key();
    }
  }
}

} // namespace
} // namespace rora
