#include <rora/model/decoder.h>
#include <rora/model/pretrained.h>

#include "checkpoint/support.h"
#include "support/test_data.h"
#include "support/tiny_llama.h"

#include <rora/adapters/attach.h>
#include <rora/checkpoint/file.h>
#include <rora/checkpoint/model_folder.h>
#include <rora/error.h>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rora {
namespace {

using ::testing::StartsWith;
using testing::message_of;
using testing::TemporaryFolder;
using testing::test_data;

at::Tensor logits(CausalLM model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

class SaveLlama : public ::testing::TestWithParam<std::string> {};

TEST_P(SaveLlama, ThenLoadThenSaveIsByteEqualAndComputesTheSame) {
  TemporaryFolder folder;
  CausalLM original = load_model(test_data("golden") / GetParam());
  save_model(original, folder / "first");
  CausalLM loaded = load_model(folder / "first");
  EXPECT_TRUE(at::equal(logits(loaded), logits(original)));
  save_model(loaded, folder / "second");
  EXPECT_EQ(testing::listing(folder / "first"), testing::listing(folder / "second"));
  for (const std::string& file : testing::listing(folder / "first")) {
    EXPECT_EQ(read_file(folder / "first" / file), read_file(folder / "second" / file)) << file;
  }
}

INSTANTIATE_TEST_SUITE_P(
    ,
    SaveLlama,
    ::testing::Values(
        "model",
        "forms/untied",
        "forms/biases",
        "forms/one_key_value_head",
        "forms/rope_linear",
        "forms/rope_dynamic_long",
        "forms/rope_llama3_length_outside",
        "forms/tied_with_only_the_head",
        "forms/tied_with_both_keys"),
    [](const auto& info) {
      const size_t slash = info.param.find('/');
      return slash == std::string::npos ? info.param : info.param.substr(slash + 1);
    });

TEST(SaveLlamaFolder, KeepsTheDtype) {
  TemporaryFolder folder;
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kDouble}) {
    save_model(load_model(test_data("golden/model"), dtype), folder.path());
    EXPECT_EQ(load_model(folder.path())->dtype(), dtype);
  }
}

TEST(SaveLlamaFolder, LeavesAdaptersOut) {
  TemporaryFolder folder;
  CausalLM model = load_model(test_data("golden/model"));
  attach_adapters(*model, AdapterOptions());
  save_model(model, folder.path());
  EXPECT_EQ(ModelFolder(folder.path()).names(), ModelFolder(test_data("golden/model")).names());
}

TEST(SaveLlamaFolder, WhereNoneCanBeIsAFileError) {
  TemporaryFolder folder;
  write_file(folder / "file", "");
  const CausalLM model = load_model(test_data("golden/model"));
  const std::string message = message_of<FileError>([&] { save_model(model, folder / "file" / "model"); });
  EXPECT_THAT(message, StartsWith((folder / "file" / "model").string() + ": "));
}

TEST(SaveLlamaFolder, AFullDiskLeavesTheEarlierFolder) {
  TemporaryFolder folder;
  CausalLM model = load_model(test_data("golden/model"));
  save_model(model, folder.path());
  const std::string weights = read_file(folder / "model.safetensors");
  at::NoGradGuard no_grad;
  testing::decoder_of(model)->norm->weight.add_(1);
  model->options.eos_token_id(std::vector<int64_t>(100'000, 2)); // so that the config is what fails
  {
    const testing::FileSizeLimit limit(250'000);
    EXPECT_THROW(save_model(model, folder.path()), FileError);
  }
  EXPECT_EQ(read_file(folder / "model.safetensors"), weights);
  EXPECT_EQ(testing::listing(folder.path()).size(), 2u);
  save_model(model, folder.path());
  EXPECT_NE(read_file(folder / "model.safetensors"), weights);
}

} // namespace
} // namespace rora
