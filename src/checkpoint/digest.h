#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail {

/// SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): neighbouring values get unlike images.
inline uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

/// 64 bits that tell apart what differs by accident; no protection against forgery. Each value goes through a
/// one-to-one map of the state, so two inputs that differ in one value or in one run of eight bytes never meet.
class Digest {
 public:
  void add(uint64_t value) {
    state_ = mix(state_ ^ value);
  }
  void add(const std::vector<int64_t>& values);
  void add(std::string_view text) {
    add_bytes(text.data(), text.size());
  }
  /// Their number, then their bytes, the large ones on several threads; the digest does not depend on how many.
  void add_bytes(const void* data, size_t size);

  /// Sixteen hexadecimal digits.
  std::string text() const;

 private:
  uint64_t state_ = 0;
};

} // namespace rora::detail
