#include <rora/model/checkpoint.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

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

at::Tensor logits(LlamaForCausalLM& model) {
  at::NoGradGuard no_grad;
  return model->forward({at::arange(3, 24, at::kLong).view({1, 21}), {}, {}});
}

class SaveLlama : public ::testing::TestWithParam<std::string> {};

TEST_P(SaveLlama, ThenLoadThenSaveIsByteEqualAndComputesTheSame) {
  TemporaryFolder folder;
  LlamaForCausalLM original = load_llama(test_data("golden") / GetParam());
  save_llama(original, folder / "first");
  LlamaForCausalLM loaded = load_llama(folder / "first");
  EXPECT_TRUE(at::equal(logits(loaded), logits(original)));
  save_llama(loaded, folder / "second");
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
    save_llama(load_llama(test_data("golden/model"), dtype), folder.path());
    EXPECT_EQ(load_llama(folder.path())->head_weight().scalar_type(), dtype);
  }
}

TEST(SaveLlamaFolder, LeavesAdaptersOut) {
  TemporaryFolder folder;
  LlamaForCausalLM model = load_llama(test_data("golden/model"));
  attach_adapters(*model, AdapterOptions());
  save_llama(model, folder.path());
  EXPECT_EQ(ModelFolder(folder.path()).names(), ModelFolder(test_data("golden/model")).names());
}

TEST(SaveLlamaFolder, WhereNoneCanBeIsAFileError) {
  TemporaryFolder folder;
  write_file(folder / "file", "");
  const LlamaForCausalLM model = load_llama(test_data("golden/model"));
  const std::string message = message_of<FileError>([&] { save_llama(model, folder / "file" / "model"); });
  EXPECT_THAT(message, StartsWith((folder / "file" / "model").string() + ": "));
}

TEST(SaveLlamaFolder, AFullDiskLeavesTheEarlierFolder) {
  TemporaryFolder folder;
  LlamaForCausalLM model = load_llama(test_data("golden/model"));
  save_llama(model, folder.path());
  const std::string weights = read_file(folder / "model.safetensors");
  at::NoGradGuard no_grad;
  model->model->norm->weight.add_(1);
  model->options.eos_token_id(std::vector<int64_t>(100'000, 2)); // so that the config is what fails
  {
    const testing::FileSizeLimit limit(250'000);
    EXPECT_THROW(save_llama(model, folder.path()), FileError);
  }
  EXPECT_EQ(read_file(folder / "model.safetensors"), weights);
  EXPECT_EQ(testing::listing(folder.path()).size(), 2u);
  save_llama(model, folder.path());
  EXPECT_NE(read_file(folder / "model.safetensors"), weights);
}

} // namespace
} // namespace rora
