#include <rora/checkpoint/safetensors.h>

#include <rora/error.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <ATen/ATen.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>

namespace rora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;

const char* const kReference = "checkpoint/reference.safetensors";

NamedTensors all_tensors(const SafetensorsFile& file) {
  NamedTensors tensors;
  for (const std::string& name : file.names()) {
    tensors.emplace_back(name, file.tensor(name));
  }
  return tensors;
}

/// The kernel's line for the mapping that holds `address`.
bool is_mapped_from(const void* address, const std::string& file_name) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    std::sscanf(line.c_str(), "%zx-%zx", &begin, &end);
    const auto value = reinterpret_cast<uintptr_t>(address);
    if (begin <= value && value < end) {
      return line.find(file_name) != std::string::npos;
    }
  }
  return false;
}

TEST(Safetensors, ReadsWhatThePythonLibraryWrites) {
  const SafetensorsFile file(testing::test_data(kReference));
  const at::Tensor count = at::arange(6);
  const std::map<std::string, at::Tensor> expected{
      {"f64", count.to(at::kDouble).reshape({2, 3}) / 4 - 0.5},
      {"f32", count.to(at::kFloat).reshape({3, 2}) / 8},
      {"f16", count.to(at::kHalf) - 2.5},
      {"bf16", count.to(at::kBFloat16).reshape({1, 6}) * 0.5},
      {"i64", count - (int64_t{1} << 40)},
      {"i32", count.to(at::kInt) - 3},
      {"i16", count.to(at::kShort) * -100},
      {"i8", count.to(at::kChar) - 3},
      {"u64", count.to(at::kUInt64)},
      {"u32", count.to(at::kUInt32)},
      {"u16", count.to(at::kUInt16)},
      {"u8", count.to(at::kByte) + 250},
      {"bool", count.remainder(2) == 0},
      {"scalar", at::scalar_tensor(1.25f, at::kFloat)},
      {"empty", at::empty({0, 3})},
      {"name with \"quotes\", é and\ttab", at::ones({1})},
  };
  EXPECT_EQ(file.names().size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(file.contains(name)) << name;
    EXPECT_EQ(file.dtype(name), tensor.scalar_type()) << name;
    EXPECT_EQ(file.shape(name), tensor.sizes().vec()) << name;
    EXPECT_EQ(file.tensor(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(file.tensor(name), tensor)) << name;
  }
  EXPECT_THAT(file.metadata(), ElementsAre(std::pair<const std::string, std::string>("format", "pt")));
}

TEST(Safetensors, WritesTheBytesThatThePythonLibraryWritesForTheSameOrder) {
  const TemporaryFolder folder;
  save_safetensors(folder / "copy.safetensors", all_tensors(SafetensorsFile(testing::test_data(kReference))));
  EXPECT_EQ(testing::read_raw(folder / "copy.safetensors"), testing::read_raw(testing::test_data(kReference)));
}

TEST(Safetensors, SavesInTheOrderGivenAndReadsInTheOrderOfTheData) {
  const TemporaryFolder folder;
  save_safetensors(folder / "a", {{"z", at::ones({2})}, {"a", at::zeros({3}, at::kByte)}, {"m", at::ones({1})}});
  EXPECT_THAT(SafetensorsFile(folder / "a").names(), ElementsAre("z", "a", "m"));
  testing::write_raw(
      folder / "b",
      testing::safetensors_bytes(
          R"({"late":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
          R"("early":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          3));
  EXPECT_THAT(SafetensorsFile(folder / "b").names(), ElementsAre("early", "late"));
}

TEST(Safetensors, TensorsShareTheMappingAndOutliveTheFile) {
  const TemporaryFolder folder;
  save_safetensors(folder / "weights", {{"a", at::arange(1000)}});
  std::optional<SafetensorsFile> file(folder / "weights");
  at::Tensor tensor = file->tensor("a");
  EXPECT_TRUE(is_mapped_from(tensor.const_data_ptr(), "weights"));
  EXPECT_EQ(tensor.const_data_ptr(), file->tensor("a").const_data_ptr());
  file.reset();
  EXPECT_TRUE(is_mapped_from(tensor.const_data_ptr(), "weights"));
  EXPECT_TRUE(at::equal(tensor, at::arange(1000)));
  const void* address = tensor.const_data_ptr();
  tensor.reset();
  EXPECT_FALSE(is_mapped_from(address, "weights"));
}

TEST(Safetensors, WritingToATensorLeavesTheFileAlone) {
  const TemporaryFolder folder;
  save_safetensors(folder / "weights", {{"a", at::zeros({8})}});
  const std::string before = testing::read_raw(folder / "weights");
  SafetensorsFile(folder / "weights").tensor("a").fill_(7);
  EXPECT_EQ(testing::read_raw(folder / "weights"), before);
}

TEST(Safetensors, CopiesMisalignedTensors) {
  const TemporaryFolder folder;
  const at::Tensor values = at::arange(5, at::kDouble);
  save_safetensors(folder / "weights", {{"byte", at::ones({1}, at::kByte)}, {"values", values}});
  const at::Tensor read = SafetensorsFile(folder / "weights").tensor("values");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(read.const_data_ptr()) % alignof(double), 0u);
  EXPECT_TRUE(at::equal(read, values));
}

TEST(Safetensors, TakesAHeaderOfAnyLength) {
  const TemporaryFolder folder;
  for (size_t padding = 0; padding < 8; ++padding) {
    const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" + std::string(padding, ' ');
    testing::write_raw(folder / "weights", testing::safetensors_bytes(header, 8));
    const at::Tensor tensor = SafetensorsFile(folder / "weights").tensor("a");
    const int32_t bits = 0x01010101;
    float expected = 0;
    std::memcpy(&expected, &bits, sizeof(expected));
    EXPECT_TRUE(at::equal(tensor, at::full({2}, expected))) << padding;
  }
}

TEST(Safetensors, SavesStridedTensorsAsTheirValues) {
  const TemporaryFolder folder;
  const at::Tensor base = at::arange(12, at::kFloat).reshape({3, 4});
  const NamedTensors tensors{
      {"transposed", base.t()},
      {"column", base.select(1, 2)},
      {"expanded", at::ones({1, 3}).expand({4, 3})},
      {"negated", at::_neg_view(base)},
      {"trained", at::ones({2}).requires_grad_()},
  };
  save_safetensors(folder / "weights", tensors);
  const SafetensorsFile file(folder / "weights");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(at::equal(file.tensor(name), tensor)) << name;
    EXPECT_FALSE(file.tensor(name).requires_grad()) << name;
  }
}

TEST(Safetensors, SavesNoTensorsAtAll) {
  const TemporaryFolder folder;
  save_safetensors(folder / "weights", {}, {});
  EXPECT_EQ(testing::read_raw(folder / "weights"), testing::safetensors_bytes("{}      ", 0));
  EXPECT_TRUE(SafetensorsFile(folder / "weights").names().empty());
}

TEST(Safetensors, KeepsMetadataAndAwkwardNames) {
  const TemporaryFolder folder;
  const std::map<std::string, std::string> metadata{{"", "empty key"}, {"b\n", "\"line\"\n\x7F"}, {"ü", ""}};
  save_safetensors(folder / "weights", {{"", at::ones({1})}, {"\x01\\", at::ones({2})}}, metadata);
  const SafetensorsFile file(folder / "weights");
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_THAT(file.names(), ElementsAre("", "\x01\\"));
}

TEST(Safetensors, DataStartsAtAMultipleOfEight) {
  const TemporaryFolder folder;
  for (const char* name : {"a", "ab", "abc", "abcd", "abcde"}) {
    save_safetensors(folder / "weights", {{name, at::ones({1}, at::kByte)}});
    EXPECT_EQ((std::filesystem::file_size(folder / "weights") - 1) % 8, 0u) << name;
  }
}

TEST(Safetensors, SavesOverTheFileThatItsTensorsAreMappedFrom) {
  const TemporaryFolder folder;
  save_safetensors(folder / "weights", {{"a", at::arange(3000)}, {"b", at::ones({3})}});
  const SafetensorsFile file(folder / "weights");
  save_safetensors(folder / "weights", {{"b", file.tensor("b")}, {"a", file.tensor("a")}});
  EXPECT_TRUE(at::equal(file.tensor("a"), at::arange(3000)));
  EXPECT_TRUE(at::equal(SafetensorsFile(folder / "weights").tensor("a"), at::arange(3000)));
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre("weights"));
}

TEST(Safetensors, NamesFileAndTensorThatIsNotThere) {
  const SafetensorsFile file(testing::test_data(kReference));
  EXPECT_FALSE(file.contains("nothing"));
  for (const auto& body : std::vector<std::function<void()>>{
           [&] { file.tensor("nothing"); }, [&] { file.shape("nothing"); }, [&] { file.dtype("nothing"); }}) {
    EXPECT_THAT(message_of<FormatError>(body), AllOf(HasSubstr("reference.safetensors"), HasSubstr("'nothing'")));
  }
}

TEST(Safetensors, RefusesToSaveWhatTheFormatCannotHold) {
  const TemporaryFolder folder;
  const auto refused = [&](const NamedTensors& tensors, const std::map<std::string, std::string>& metadata = {}) {
    return message_of<c10::ValueError>([&] { save_safetensors(folder / "weights", tensors, metadata); });
  };
  EXPECT_THAT(refused({{"a", at::ones({1})}, {"a", at::ones({1})}}), HasSubstr("'a' is given twice"));
  EXPECT_THAT(refused({{"a", at::ones({1}, at::kComplexDouble)}}), HasSubstr("ComplexDouble"));
  EXPECT_THAT(refused({{"a", at::Tensor()}}), HasSubstr("undefined"));
  EXPECT_THAT(refused({{"a", at::ones({2, 2}).to_sparse()}}), HasSubstr("no dense data"));
  EXPECT_THAT(refused({{"a", at::empty({2}, at::TensorOptions(at::kMeta))}}), HasSubstr("no dense data"));
  EXPECT_THAT(refused({{"__metadata__", at::ones({1})}}), HasSubstr("metadata"));
  EXPECT_THAT(refused({{"\xFF", at::ones({1})}}), HasSubstr("UTF-8"));
  EXPECT_THAT(refused({}, {{"a", "\xC3"}}), HasSubstr("UTF-8"));
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre());
}

TEST(Safetensors, FullDiskLeavesTheOldFileAndNothingElse) {
  const TemporaryFolder folder;
  save_safetensors(folder / "weights", {{"a", at::ones({4})}});
  const std::string before = testing::read_raw(folder / "weights");
  {
    const testing::FileSizeLimit limit(100'000);
    EXPECT_THAT(
        message_of<FileError>([&] {
          save_safetensors(folder / "weights", {{"a", at::ones({50'000})}});
        }),
        AllOf(HasSubstr("weights"), HasSubstr("File too large")));
  }
  EXPECT_EQ(testing::read_raw(folder / "weights"), before);
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre("weights"));
}

} // namespace
} // namespace rora
