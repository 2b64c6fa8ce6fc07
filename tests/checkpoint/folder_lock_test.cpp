#include <rora/checkpoint/folder_lock.h>

#include "support/test_data.h"

#include <rora/error.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <optional>

namespace rora {
namespace {

using testing::TemporaryFolder;

/// Locks as another process does: locks belong to descriptors, not to processes.
class OtherProcess {
 public:
  explicit OtherProcess(const std::filesystem::path& folder)
      : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY)), locks_(flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {}
  ~OtherProcess() {
    close(descriptor_);
  }
  bool locks() const {
    return locks_;
  }

 private:
  int descriptor_;
  bool locks_;
};

TEST(FolderLock, KeepsOtherProcessesOutWhileItLives) {
  const TemporaryFolder folder;
  {
    const FolderLock lock(folder.path());
    EXPECT_FALSE(OtherProcess(folder.path()).locks());
  }
  EXPECT_TRUE(OtherProcess(folder.path()).locks());
}

TEST(FolderLock, OneProcessMayHaveSeveralAndKeepsTheFolderUntilTheLast) {
  const TemporaryFolder folder;
  std::optional<FolderLock> first(folder.path());
  std::optional<FolderLock> second(folder.path() / ".");
  first.reset();
  EXPECT_FALSE(OtherProcess(folder.path()).locks());
  second.reset();
  EXPECT_TRUE(OtherProcess(folder.path()).locks());
}

TEST(FolderLock, AFolderThatAnotherProcessHoldsIsAnErrorThatNamesIt) {
  const TemporaryFolder folder;
  {
    const OtherProcess other(folder.path());
    ASSERT_TRUE(other.locks());
    EXPECT_THAT(
        [&] { FolderLock lock(folder.path()); },
        ::testing::ThrowsMessage<FileError>(folder.path().string() + ": another process writes to it"));
  }
  const FolderLock lock(folder.path());
}

TEST(FolderLock, WhatIsNoFolderIsAFileError) {
  const TemporaryFolder folder;
  EXPECT_THROW(FolderLock(folder / "absent"), FileError);
}

} // namespace
} // namespace rora
