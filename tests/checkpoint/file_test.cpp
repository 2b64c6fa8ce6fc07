#include <rora/checkpoint/file.h>

#include <rora/error.h>

#include "checkpoint/support.h"
#include "support/test_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <thread>

namespace rora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;

TEST(File, ReadsWhatWasWritten) {
  const TemporaryFolder folder;
  for (const std::string& content :
       {std::string(), std::string("a\0b\r\n\xFF", 6), std::string(70'000, 'x'), std::string(300'000, 'y')}) {
    write_file(folder / "file", content);
    EXPECT_EQ(read_file(folder / "file"), content);
  }
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre("file"));
}

TEST(File, ReadsPipesThatMayBeOnesUpToALimit) {
  const TemporaryFolder folder;
  const auto path = folder / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const std::string content(200'000, 'p');
  std::thread writer([&] { testing::write_raw(path, content); });
  EXPECT_EQ(read_file_or_pipe(path, 200'000), content);
  writer.join();
  std::thread longer([&] { testing::write_raw(path, std::string(50'000, 'p')); });
  EXPECT_THAT(
      message_of<FileError>([&] { read_file_or_pipe(path, 49'999); }),
      AllOf(HasSubstr("/pipe: "), HasSubstr("a pipe that gives more than 49999 bytes")));
  longer.join();
  write_file(folder / "file", content);
  EXPECT_EQ(read_file_or_pipe(folder / "file", 1), content);
}

TEST(File, RefusesWhatMayHaveNoEnd) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(message_of<FileError>([&] { read_file(folder / "pipe"); }), HasSubstr("pipe: is not a regular file"));
  EXPECT_THAT(message_of<FileError>([] { read_file("/dev/zero"); }), HasSubstr("/dev/zero: is not a regular file"));
  EXPECT_THAT(message_of<FileError>([] { read_file_or_pipe("/dev/zero"); }), HasSubstr("is neither a file nor a pipe"));
  EXPECT_THAT(message_of<FileError>([&] { read_file_or_pipe(folder.path()); }), HasSubstr("Is a directory"));
}

TEST(File, NewFilesFollowTheUmask) {
  const TemporaryFolder folder;
  const mode_t old = umask(027);
  write_file(folder / "file", "x");
  umask(old);
  struct stat status {};
  ASSERT_EQ(stat((folder / "file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(File, WritesRelativeToTheCurrentFolder) {
  const TemporaryFolder folder;
  const auto old = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file("file", "x");
  std::filesystem::current_path(old);
  EXPECT_EQ(read_file(folder / "file"), "x");
}

TEST(File, NamesWhatCannotBeRead) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      message_of<FileError>([&] { read_file(folder / "absent"); }),
      AllOf(HasSubstr("absent"), HasSubstr("No such file")));
  EXPECT_THAT(message_of<FileError>([&] { read_file(folder.path()); }), HasSubstr("Is a directory"));
}

TEST(File, NamesWhatCannotBeWritten) {
  const TemporaryFolder folder;
  write_file(folder / "file", "x");
  EXPECT_THAT(
      message_of<FileError>([&] { write_file(folder.path() / "absent" / "a", "y"); }),
      AllOf(HasSubstr("absent/a"), HasSubstr("No such file")));
  EXPECT_THAT(
      message_of<FileError>([&] { write_file(folder.path() / "file" / "a", "y"); }), HasSubstr("Not a directory"));
  std::filesystem::create_directory(folder / "folder");
  EXPECT_THAT(message_of<FileError>([&] { write_file(folder / "folder", "y"); }), HasSubstr("Is a directory"));
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre("file", "folder"));
}

TEST(File, ReadOnlyFolderIsAnError) {
  const TemporaryFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  {
    const testing::WithoutPrivileges unprivileged;
    write_file(folder / "before", "x");
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  {
    const testing::WithoutPrivileges unprivileged;
    EXPECT_THAT(message_of<FileError>([&] { write_file(folder / "before", "y"); }), HasSubstr("Permission denied"));
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  EXPECT_EQ(read_file(folder / "before"), "x");
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre("before"));
}

TEST(File, FileThatMayNotBeReadIsAnError) {
  const TemporaryFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  write_file(folder / "file", "x");
  std::filesystem::permissions(folder / "file", std::filesystem::perms::none);
  const testing::WithoutPrivileges unprivileged;
  EXPECT_THAT(message_of<FileError>([&] { read_file(folder / "file"); }), HasSubstr("Permission denied"));
}

TEST(File, FullDiskLeavesTheOldContentAndNothingElse) {
  const TemporaryFolder folder;
  write_file(folder / "file", "old");
  {
    const testing::FileSizeLimit limit(1000);
    EXPECT_THAT(
        message_of<FileError>([&] { write_file(folder / "file", std::string(1001, 'n')); }),
        AllOf(HasSubstr("file"), HasSubstr("File too large")));
  }
  EXPECT_EQ(read_file(folder / "file"), "old");
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre("file"));
}

TEST(File, TemporaryFilesOfAKilledProcessAreRemovedAndNoOthers) {
  const TemporaryFolder folder;
  for (const char* name :
       {".file.123-0.tmp", ".a.b.7-45.tmp", ".file.tmp", "file.1-2.tmp", ".file.1-2.tmp.x", "file"}) {
    write_file(folder / name, "x");
  }
  remove_temporary_files(folder.path());
  EXPECT_THAT(testing::listing(folder.path()), ElementsAre(".file.1-2.tmp.x", ".file.tmp", "file", "file.1-2.tmp"));
  EXPECT_THROW(remove_temporary_files(folder / "absent"), FileError);
}

TEST(File, MessagesStayOnOneLineWhateverThePath) {
  EXPECT_THAT(message_of<FileError>([] { read_file("/absent\n\x1B[2J"); }), HasSubstr("absent\\x0a\\x1b[2J"));
}

} // namespace
} // namespace rora
