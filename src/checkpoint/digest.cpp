#include "checkpoint/digest.h"

#include "checkpoint/mapped_file.h"

#include <rora/checkpoint/file.h>

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

namespace rora::detail {
namespace {

constexpr size_t kBlock = size_t{1} << 20;

/// Four chains side by side, as the multiplications of one would wait for each other.
uint64_t block_digest(const char* data, size_t size) {
  std::array<uint64_t, 4> chains{1, 2, 3, 4};
  const auto take = [&](size_t chain, const char* from, size_t bytes) {
    uint64_t word = 0;
    std::memcpy(&word, from, bytes);
    chains[chain] = (chains[chain] ^ word) * 0x9E3779B97F4A7C15u;
    chains[chain] ^= chains[chain] >> 29;
  };
  size_t place = 0;
  for (; place + 32 <= size; place += 32) {
    for (size_t chain = 0; chain < 4; ++chain) {
      take(chain, data + place + 8 * chain, 8);
    }
  }
  for (; place < size; place += 8) {
    take(place / 8 % 4, data + place, std::min<size_t>(8, size - place));
  }
  uint64_t digest = size;
  for (const uint64_t chain : chains) {
    digest = mix(digest ^ chain);
  }
  return digest;
}

} // namespace

void Digest::add(const std::vector<int64_t>& values) {
  add(values.size());
  for (const int64_t value : values) {
    add(static_cast<uint64_t>(value));
  }
}

void Digest::add_bytes(const void* data, size_t size) {
  add(size);
  std::vector<uint64_t> digests((size + kBlock - 1) / kBlock);
  at::parallel_for(0, static_cast<int64_t>(digests.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const size_t from = static_cast<size_t>(block) * kBlock;
      digests[static_cast<size_t>(block)] =
          block_digest(static_cast<const char*>(data) + from, std::min(kBlock, size - from));
    }
  });
  for (const uint64_t digest : digests) {
    add(digest);
  }
}

std::string Digest::text() const {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(state_));
  return digits;
}

} // namespace rora::detail

namespace rora {

std::string file_digest(const std::filesystem::path& path) {
  const detail::MappedFile file(path, /*mapped=*/true);
  detail::Digest digest;
  digest.add_bytes(file.data(), file.size());
  return digest.text();
}

} // namespace rora
