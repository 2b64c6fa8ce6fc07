#include "checkpoint/digest.h"

#include "support/test_data.h"

#include <rora/checkpoint/file.h>
#include <rora/error.h>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <set>

namespace rora {
namespace {

using detail::Digest;

std::string digest_of(std::string_view bytes) {
  Digest digest;
  digest.add(bytes);
  return digest.text();
}

TEST(Digest, EveryBitCounts) {
  std::string bytes(100, '\0');
  std::set<std::string> digests{digest_of(bytes)};
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(1 << bit % 8);
    digests.insert(digest_of(flipped));
  }
  EXPECT_EQ(digests.size(), 8 * bytes.size() + 1);
}

TEST(Digest, LengthAndOrderCount) {
  std::set<std::string> digests;
  for (size_t length = 0; length < 50; ++length) {
    digests.insert(digest_of(std::string(length, '\0')));
  }
  EXPECT_EQ(digests.size(), 50);
  EXPECT_NE(digest_of("onetwo"), digest_of("twoone"));
}

TEST(Digest, IsTheSameOnAnyNumberOfThreads) {
  std::string bytes(5'000'003, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(i * i >> 3);
  }
  const int threads = at::get_num_threads();
  const std::string digest = digest_of(bytes);
  at::set_num_threads(1);
  EXPECT_EQ(digest_of(bytes), digest);
  at::set_num_threads(threads);
}

TEST(Digest, OfAFileIsOfItsBytes) {
  const testing::TemporaryFolder folder;
  write_file(folder / "a", "some bytes");
  write_file(folder / "b", "some bytes");
  write_file(folder / "c", "some Bytes");
  EXPECT_EQ(file_digest(folder / "a"), file_digest(folder / "b"));
  EXPECT_NE(file_digest(folder / "a"), file_digest(folder / "c"));
  EXPECT_THROW(file_digest(folder / "d"), FileError);
}

} // namespace
} // namespace rora
