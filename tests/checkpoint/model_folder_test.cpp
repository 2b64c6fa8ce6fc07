#include <rora/checkpoint/model_folder.h>

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <ATen/ATen.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

namespace rora {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::listing;
using testing::message_of;
using testing::TemporaryFolder;

const char* const kIndex = "model.safetensors.index.json";

NamedTensors some_tensors(double start = 0) {
  return {
      {"z", at::arange(start, start + 4, at::kFloat)},
      {"b", at::arange(start, start + 6, at::kFloat).reshape({2, 3})},
      {"a", at::arange(start, start + 2, at::kBFloat16)},
      {"m", at::arange(start, start + 5, at::kLong)}};
}

void expect_holds(const ModelFolder& folder, const NamedTensors& tensors) {
  EXPECT_EQ(folder.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(folder.contains(name)) << name;
    EXPECT_EQ(folder.shape(name), tensor.sizes().vec());
    EXPECT_EQ(folder.dtype(name), tensor.scalar_type());
    EXPECT_TRUE(at::equal(folder.tensor(name), tensor)) << name;
  }
}

/// A folder with the tensors 'a' and 'b' in the files one and two, and an index of this text.
class IndexedFolder {
 public:
  explicit IndexedFolder(const std::string& index) {
    save_safetensors(folder_ / "one", {{"a", at::ones({2})}});
    save_safetensors(folder_ / "two", {{"b", at::ones({3})}});
    write_file(folder_ / kIndex, index);
  }
  template <class Error>
  std::string refusal() const {
    return message_of<Error>([&] { ModelFolder{folder_.path()}; });
  }
  const TemporaryFolder& folder() const {
    return folder_;
  }

 private:
  TemporaryFolder folder_;
};

TEST(ModelFolder, SavesAndReadsOneFile) {
  const TemporaryFolder folder;
  save_model_tensors(folder.path(), some_tensors());
  EXPECT_THAT(listing(folder.path()), ElementsAre("model.safetensors"));
  const ModelFolder read(folder.path());
  expect_holds(read, some_tensors());
  EXPECT_THAT(read.names(), ElementsAre("a", "b", "m", "z"));
  EXPECT_EQ(read.file("a"), folder / "model.safetensors");
  EXPECT_EQ(SafetensorsFile(read.file("a")).metadata().at("format"), "pt");
}

TEST(ModelFolder, SavesAndReadsShards) {
  const TemporaryFolder folder;
  // 16, 24, 4 and 40 bytes: z and b fill a shard to its last byte, m is alone as it is larger than any shard.
  save_model_tensors(folder.path(), some_tensors(), 40);
  EXPECT_THAT(
      listing(folder.path()),
      ElementsAre(
          "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors",
          kIndex));
  const ModelFolder read(folder.path());
  expect_holds(read, some_tensors());
  EXPECT_EQ(read.file("b"), folder / "model-00001-of-00003.safetensors");
  EXPECT_EQ(read.file("a"), folder / "model-00002-of-00003.safetensors");
  EXPECT_EQ(read.file("m"), folder / "model-00003-of-00003.safetensors");
  EXPECT_EQ(
      read_file(folder / kIndex),
      R"({
  "metadata": {
    "total_size": 84
  },
  "weight_map": {
    "a": "model-00002-of-00003.safetensors",
    "b": "model-00001-of-00003.safetensors",
    "m": "model-00003-of-00003.safetensors",
    "z": "model-00001-of-00003.safetensors"
  }
}
)");
}

TEST(ModelFolder, TensorLargerThanAShardGetsItsOwn) {
  const TemporaryFolder folder;
  save_model_tensors(folder.path(), {{"a", at::ones({1})}, {"b", at::ones({9})}, {"c", at::ones({1})}}, 8);
  EXPECT_EQ(ModelFolder(folder.path()).file("b"), folder / "model-00002-of-00003.safetensors");
}

TEST(ModelFolder, NewLayoutReplacesTheOldOne) {
  const TemporaryFolder folder;
  write_file(folder / "config.json", "{}");
  write_file(folder / "model-1-of-2.safetensors", "not a shard's name");
  for (const int64_t shard_bytes : {1000, 40, 16, 1000, 16, 24}) {
    SCOPED_TRACE(shard_bytes);
    save_model_tensors(folder.path(), some_tensors(static_cast<double>(shard_bytes)), shard_bytes);
    expect_holds(ModelFolder(folder.path()), some_tensors(static_cast<double>(shard_bytes)));
    size_t expected = shard_bytes == 1000 ? 1 : shard_bytes == 40 ? 4 : 5;
    EXPECT_EQ(listing(folder.path()).size(), expected + 2);
  }
  EXPECT_EQ(read_file(folder / "model-1-of-2.safetensors"), "not a shard's name");
}

TEST(ModelFolder, SavesOverTheShardsThatItsTensorsAreMappedFrom) {
  const TemporaryFolder folder;
  save_model_tensors(folder.path(), some_tensors(), 16);
  const ModelFolder old(folder.path());
  NamedTensors mapped;
  for (const auto& [name, tensor] : some_tensors()) {
    mapped.emplace_back(name, old.tensor(name));
  }
  save_model_tensors(folder.path(), mapped, 16);
  expect_holds(ModelFolder(folder.path()), some_tensors());
}

TEST(ModelFolder, FullDiskLeavesTheOldWeightsAndNothingElse) {
  for (const int64_t old_shard_bytes : {int64_t{16}, int64_t{1} << 30}) {
    const TemporaryFolder folder;
    save_model_tensors(folder.path(), some_tensors(), old_shard_bytes);
    const auto before = listing(folder.path());
    NamedTensors larger = some_tensors(100);
    larger.emplace_back("large", at::ones({50'000}));
    for (const int64_t shard_bytes : {int64_t{16}, int64_t{1} << 30}) {
      const testing::FileSizeLimit limit(100'000);
      EXPECT_THAT(
          message_of<FileError>([&] { save_model_tensors(folder.path(), larger, shard_bytes); }),
          HasSubstr("File too large"));
    }
    EXPECT_EQ(listing(folder.path()), before);
    expect_holds(ModelFolder(folder.path()), some_tensors());
  }
}

TEST(ModelFolder, FailedRenameNeverMixesTwoModels) {
  const TemporaryFolder folder;
  save_model_tensors(folder.path(), some_tensors(), 40);
  // Shards of the same names, one of which cannot be put in its place.
  std::filesystem::remove(folder / "model-00002-of-00003.safetensors");
  std::filesystem::create_directory(folder / "model-00002-of-00003.safetensors");
  EXPECT_THAT(
      message_of<FileError>([&] { save_model_tensors(folder.path(), some_tensors(9), 40); }),
      HasSubstr("model-00002-of-00003.safetensors: cannot rename"));
  message_of<FileError>([&] { ModelFolder{folder.path()}; });
  for (const std::string& name : listing(folder.path())) {
    EXPECT_THAT(name, ::testing::Not(HasSubstr(".tmp")));
  }
}

TEST(ModelFolder, ReadOnlyFolderIsAnError) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      message_of<FileError>([&] { save_model_tensors(folder.path() / "absent", some_tensors()); }),
      HasSubstr("No such file"));
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  {
    const testing::WithoutPrivileges unprivileged;
    for (const int64_t shard_bytes : {16, 1000}) {
      EXPECT_THAT(
          message_of<FileError>([&] { save_model_tensors(folder.path(), some_tensors(), shard_bytes); }),
          HasSubstr("Permission denied"));
    }
  }
  EXPECT_THAT(listing(folder.path()), ElementsAre());
}

TEST(ModelFolder, RefusesToSaveWhatCannotBeSavedBeforeWriting) {
  const TemporaryFolder folder;
  NamedTensors twice = some_tensors();
  twice.push_back(twice.front());
  EXPECT_THAT(
      message_of<c10::ValueError>([&] { save_model_tensors(folder.path(), twice, 16); }),
      HasSubstr("'z' is given twice"));
  EXPECT_THAT(
      message_of<c10::ValueError>([&] { save_model_tensors(folder.path(), some_tensors(), 0); }),
      HasSubstr("max_shard_bytes"));
  message_of<c10::ValueError>([&] { save_model_tensors(folder.path(), {{"a", at::Tensor()}}, 16); });
  EXPECT_THAT(listing(folder.path()), ElementsAre());
}

TEST(ModelFolder, SingleFileComesBeforeTheIndex) {
  const IndexedFolder indexed(R"({"weight_map": {"a": "one", "b": "two"}})");
  save_safetensors(indexed.folder() / "model.safetensors", {{"c", at::ones({1})}});
  EXPECT_THAT(ModelFolder(indexed.folder().path()).names(), ElementsAre("c"));
}

TEST(ModelFolder, ReadsThroughSymbolicLinks) {
  const TemporaryFolder target;
  const TemporaryFolder folder;
  save_model_tensors(target.path(), some_tensors(), 16);
  for (const std::string& name : listing(target.path())) {
    std::filesystem::create_symlink(target / name, folder / name);
  }
  expect_holds(ModelFolder(folder.path()), some_tensors());
}

TEST(ModelFolder, NamesTheTensorThatIsNotThere) {
  const TemporaryFolder folder;
  save_model_tensors(folder.path(), some_tensors());
  const ModelFolder read(folder.path());
  EXPECT_FALSE(read.contains("nothing"));
  EXPECT_THAT(
      message_of<FormatError>([&] { read.tensor("nothing"); }),
      AllOf(HasSubstr(folder.path().string()), HasSubstr("'nothing'")));
}

TEST(ModelFolder, RefusesFoldersWithoutWeights) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      message_of<FileError>([&] { ModelFolder{folder.path()}; }),
      AllOf(HasSubstr("neither model.safetensors nor"), HasSubstr(kIndex)));
  EXPECT_THAT(
      message_of<FileError>([&] { ModelFolder{folder / "absent"}; }), HasSubstr("absent: there is no such folder"));
  write_file(folder / "file", "");
  EXPECT_THAT(message_of<FileError>([&] { ModelFolder{folder / "file"}; }), HasSubstr("is not a folder"));
}

TEST(ModelFolder, RefusesIndexesThatAreNotOne) {
  for (const char* index :
       {"", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {}}", "{\"weight_map\": {\"a\": 1}}",
        "{\"weight_map\": {\"a\": \"one\"}", "{\"weight_map\": {\"a\": \"one\", \"a\": \"one\"}}"}) {
    EXPECT_THAT(IndexedFolder(index).refusal<FormatError>(), HasSubstr(kIndex)) << index;
  }
}

TEST(ModelFolder, RefusesShardsOutsideTheFolder) {
  for (const char* file : {"../one", "/etc/hostname", "sub/one", "./one", "..", ".", "", "one\\u0000", "..\\\\one"}) {
    EXPECT_THAT(
        IndexedFolder(std::string("{\"weight_map\": {\"a\": \"") + file + "\", \"b\": \"two\"}}")
            .refusal<FormatError>(),
        AllOf(HasSubstr("tensor 'a'"), HasSubstr("expected the name of a file in this folder")))
        << file;
  }
}

TEST(ModelFolder, RefusesIndexAndShardsThatDisagree) {
  EXPECT_THAT(
      IndexedFolder(R"({"weight_map": {"a": "one", "b": "three"}})").refusal<FileError>(),
      AllOf(HasSubstr(kIndex), HasSubstr("tensor 'b': its file 'three' is missing")));
  EXPECT_THAT(
      IndexedFolder(R"({"weight_map": {"a": "one", "b": "two", "c": "two"}})").refusal<FormatError>(),
      AllOf(HasSubstr(kIndex), HasSubstr("tensor 'c' is not in its file 'two'")));
  const IndexedFolder indexed(R"({"weight_map": {"a": "one", "b": "two"}})");
  EXPECT_EQ(ModelFolder(indexed.folder().path()).names().size(), 2u);
  save_safetensors(indexed.folder() / "two", {{"b", at::ones({3})}, {"extra", at::ones({1})}});
  EXPECT_THAT(indexed.refusal<FormatError>(), AllOf(HasSubstr("two: tensor 'extra'"), HasSubstr("not named by")));
  save_safetensors(indexed.folder() / "two", {{"b", at::ones({3})}, {"a", at::ones({2})}});
  EXPECT_THAT(indexed.refusal<FormatError>(), HasSubstr("two: tensor 'a' is also in one"));
  write_file(indexed.folder() / "two", "short");
  EXPECT_THAT(indexed.refusal<FormatError>(), HasSubstr("two: expected at least the 8 bytes"));
}

} // namespace
} // namespace rora
