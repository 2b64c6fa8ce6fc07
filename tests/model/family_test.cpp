#include "checkpoint/support.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/checkpoint/file.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/error.h>
#include <rora/model/families/family.h>
#include <rora/model/pretrained.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;
using testing::test_data;

/// LLaMA with other names for its tensors.
class Renamed : public ModelFamily {
 public:
  std::string model_type() const override {
    return "renamed";
  }
  std::string architecture() const override {
    return "RenamedForCausalLM";
  }
  DecoderOptions read_config(const JsonObject& config) const override {
    return read_shared_config(*this, config);
  }
  JsonFields write_config(const DecoderOptions& options, const std::string& torch_dtype) const override {
    return write_shared_config(*this, options, torch_dtype);
  }
  std::vector<std::pair<std::string, std::string>> renamed_parts() const override {
    return {{"model.layers", "h"}, {"self_attn.q_proj", "attn.query"}, {"self_attn", "attn"},
            {"model", "top"},      {"up_proj", "down_proj"},           {"down_proj", "up_proj"}};
  }
};

TEST(ModelFamilies, AreFoundByTheirModelTypeAndOtherwiseListed) {
  EXPECT_EQ(family_of("llama").architecture(), "LlamaForCausalLM");
  const std::string message = message_of<c10::ValueError>([] { family_of("bert"); });
  EXPECT_THAT(message, HasSubstr("model_type 'bert' is not supported ("));
  EXPECT_THAT(message, HasSubstr("llama"));
}

TEST(ModelFamilies, OfATypeThatIsThereAlreadyAreNotAdded) {
  class Other : public Renamed {
    std::string model_type() const override {
      return "llama";
    }
  };
  EXPECT_THROW(register_model_family(std::make_shared<Other>()), c10::ValueError);
  EXPECT_EQ(family_of("llama").architecture(), "LlamaForCausalLM");
}

TEST(ModelFamilies, AConfigOfAnUnknownTypeNamesFileFieldAndThoseThatThereAre) {
  TemporaryFolder folder;
  write_file(folder / "config.json", R"({"model_type": "bert"})");
  const std::string message = message_of<FormatError>([&] { read_model_config(folder.path()); });
  EXPECT_THAT(message, HasSubstr((folder / "config.json").string() + ": model_type 'bert' is not supported ("));
  EXPECT_THAT(message, HasSubstr("llama"));
}

TEST(ModelFamilies, AConfigWithoutATypeIsALlamas) {
  EXPECT_EQ(read_model_config(test_data("golden/model")).model_type(), "llama");
  TemporaryFolder folder;
  write_file(
      folder / "config.json",
      R"({"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 2})");
  EXPECT_EQ(read_model_config(folder.path()).model_type(), "llama");
}

TEST(ModelFamilies, RenameWholePartsThereAndBack) {
  const Renamed family;
  for (const auto& [parameter, key] : std::vector<std::pair<std::string, std::string>>{
           {"model.layers.0.self_attn.q_proj.weight", "h.0.attn.query.weight"},
           {"model.layers.10.self_attn.k_proj.bias", "h.10.attn.k_proj.bias"},
           {"model.embed_tokens.weight", "top.embed_tokens.weight"},
           {"lm_head.weight", "lm_head.weight"},
           {"model.layers.0.mlp.up_proj.weight", "h.0.mlp.down_proj.weight"},
           {"model.layers.0.mlp.down_proj.weight", "h.0.mlp.up_proj.weight"},
           {"model.layers.0.my_self_attn.weight", "h.0.my_self_attn.weight"}}) {
    EXPECT_EQ(family.stored_name(parameter), key);
    EXPECT_EQ(family.parameter_name(key), parameter);
  }
}

TEST(ModelFamilies, ErrorsNameTheTensorsAsTheFolderDoes) {
  register_model_family(std::make_shared<Renamed>());
  TemporaryFolder folder;
  const DecoderForCausalLM model = testing::tiny_llama(testing::tiny_llama_options().model_type("renamed"));
  save_model(*model, folder.path());
  EXPECT_EQ(load_model(folder.path())->options.model_type(), "renamed");
  const ModelFolder saved(folder.path());
  NamedTensors tensors;
  for (const std::string& name : saved.names()) {
    tensors.emplace_back(name, saved.tensor(name).clone());
  }
  const auto failure = [&](const NamedTensors& changed) {
    save_model_tensors(folder.path(), changed);
    return message_of<FormatError>([&] { load_model(folder.path()); });
  };
  const auto without = [&](const std::string& name) {
    NamedTensors rest = tensors;
    std::erase_if(rest, [&](const auto& named) { return named.first.starts_with(name); });
    EXPECT_LT(rest.size(), tensors.size());
    return rest;
  };
  EXPECT_THAT(failure(without("h.1.attn.query.weight")), HasSubstr("tensor h.1.attn.query.weight is missing"));
  EXPECT_THAT(failure(without("top.norm")), HasSubstr("tensor top.norm.weight is missing"));
  EXPECT_THAT(failure(without("h.0.")), HasSubstr("all tensors of h.0 are missing"));
  NamedTensors more = tensors;
  more.emplace_back("h.0.attn.odd", at::ones({2}));
  EXPECT_THAT(failure(more), HasSubstr("tensor h.0.attn.odd is not one of this model's"));
  more.back().first = "model.norm.weight"; // under the parameter's own name beside the folder's
  EXPECT_THAT(failure(more), HasSubstr("tensor model.norm.weight is not one of this model's"));
}

} // namespace
} // namespace rora
