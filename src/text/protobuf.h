#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace rora::detail {

/// A field of a protobuf message as it stands on the wire.
struct ProtobufField {
  enum Type : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  uint32_t number;
  uint32_t type;
  std::string_view bytes; ///< of kBytes, and the bytes of a fixed number
  uint64_t value = 0; ///< of kVarint

  bool is(uint32_t wanted_number, Type wanted_type) const {
    return number == wanted_number && type == wanted_type;
  }
};

/// Reads one base-128 number from the front of `bytes`.
inline std::optional<uint64_t> take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) {
      return value;
    }
  }
  return std::nullopt;
}

/// Reads one field from the front of `message`, which is not empty; nothing where it is malformed or a group.
inline std::optional<ProtobufField> take_protobuf_field(std::string_view& message) {
  const std::optional<uint64_t> key = take_varint(message);
  if (!key || *key > UINT32_MAX) { // the library would drop the bits beyond 32 and see another field
    return std::nullopt;
  }
  ProtobufField field{static_cast<uint32_t>(*key >> 3), static_cast<uint32_t>(*key & 7), {}};
  std::optional<uint64_t> size;
  switch (field.type) {
    case ProtobufField::kVarint: {
      const std::optional<uint64_t> value = take_varint(message);
      field.value = value.value_or(0);
      size = value ? std::optional<uint64_t>(0) : std::nullopt;
      break;
    }
    case ProtobufField::kFixed64:
      size = 8;
      break;
    case ProtobufField::kBytes:
      size = take_varint(message);
      break;
    case ProtobufField::kFixed32:
      size = 4;
      break;
    default:
      break;
  }
  if (!size || *size > message.size()) {
    return std::nullopt;
  }
  field.bytes = message.substr(0, *size);
  message.remove_prefix(*size);
  return field;
}

} // namespace rora::detail
