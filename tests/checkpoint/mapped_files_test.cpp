#include <rora/checkpoint/mapped_files.h>

#include <rora/checkpoint/safetensors.h>
#include <rora/error.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <ATen/ATen.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <optional>

namespace rora {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using ::testing::StartsWith;
using testing::TemporaryFolder;

class MappedFiles : public ::testing::Test {
 protected:
  MappedFiles() {
    save("weights.safetensors", 1.0);
  }

  void save(const std::string& name, double value) {
    save_safetensors(folder / name, {{"a", at::full({3000}, value)}});
  }

  /// Writes into the file itself, some time later.
  void overwrite() {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-4, std::ios::end);
    file << "more";
    file.close();
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
  }

  TemporaryFolder folder;
  const std::filesystem::path path = folder / "weights.safetensors";
};

TEST_F(MappedFiles, AreFoundByAnyAddressInThemWhileTensorsNeedThem) {
  std::optional<at::Tensor> tensor = SafetensorsFile(path).tensor("a");
  const char* const begin = static_cast<const char*>(tensor->data_ptr());
  const char* const last = begin + tensor->nbytes() - 1;
  save("second.safetensors", 3.0);
  const at::Tensor second = SafetensorsFile(folder / "second.safetensors").tensor("a");
  EXPECT_EQ(mapped_file_at(begin), path.string());
  EXPECT_EQ(mapped_file_at(last), path.string());
  EXPECT_EQ(mapped_file_at(second.data_ptr()), (folder / "second.safetensors").string());
  EXPECT_EQ(mapped_file_at(last + 1), nullptr);
  EXPECT_EQ(mapped_file_at(&begin), nullptr);
  EXPECT_EQ(mapped_file_at(nullptr), nullptr);
  tensor.reset();
  EXPECT_EQ(mapped_file_at(begin), nullptr);
  EXPECT_EQ(mapped_file_at(second.data_ptr()), (folder / "second.safetensors").string());
}

TEST_F(MappedFiles, ThatWereWrittenToAreNamed) {
  const at::Tensor tensor = SafetensorsFile(path).tensor("a");
  EXPECT_NO_THROW(check_mapped_files());
  overwrite();
  const std::string message = message_of<FormatError>(check_mapped_files);
  EXPECT_THAT(message, StartsWith(path.string() + ": was written to while it was in use"));
}

TEST_F(MappedFiles, ThatWereCutShortAreNamed) {
  const at::Tensor tensor = SafetensorsFile(path).tensor("a");
  std::filesystem::resize_file(path, 5000);
  EXPECT_THAT(message_of<FormatError>(check_mapped_files), HasSubstr("weights.safetensors"));
}

TEST_F(MappedFiles, ThatOthersTookThePlaceOfAreWhatTheyWere) {
  const at::Tensor tensor = SafetensorsFile(path).tensor("a");
  save("weights.safetensors", 2.0); // by rename
  EXPECT_NO_THROW(check_mapped_files());
  std::filesystem::remove(path);
  EXPECT_NO_THROW(check_mapped_files());
  EXPECT_TRUE(at::equal(tensor, at::ones({3000})));
}

TEST_F(MappedFiles, ThatNoTensorNeedsMayChange) {
  const at::Tensor copy = SafetensorsFile(path).tensor("a").clone();
  overwrite();
  EXPECT_NO_THROW(check_mapped_files());
}

TEST_F(MappedFiles, AreNoneOfThoseThatAreReadInstead) {
  const at::Tensor tensor = SafetensorsFile(path, /*mapped=*/false).tensor("a");
  EXPECT_EQ(mapped_file_at(tensor.data_ptr()), nullptr);
  overwrite();
  EXPECT_NO_THROW(check_mapped_files());
  std::filesystem::resize_file(path, 0);
  EXPECT_TRUE(at::equal(tensor, at::ones({3000})));
  for (const bool mapped : {true, false}) {
    EXPECT_THAT(
        message_of<FormatError>([&] { SafetensorsFile(path, mapped); }),
        HasSubstr("expected at least the 8 bytes of the header length, found 0"));
  }
}

} // namespace
} // namespace rora
