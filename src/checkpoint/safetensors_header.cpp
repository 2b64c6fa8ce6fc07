#include "checkpoint/safetensors_header.h"

#include <rora/error.h>

#include "checkpoint/json.h"
#include "checkpoint/quote.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <unordered_set>
#include <utility>

namespace rora::detail {

namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 13> kDtypes{{
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U64", at::kUInt64},
    {"U32", at::kUInt32},
    {"U16", at::kUInt16},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

// LibTorch keeps sets of dimensions in 64 bits.
constexpr size_t kMaxDimensions = 64;

/// Takes the parser's events one by one, so that a hostile header costs no more memory than its own length and is
/// refused at its first wrong token.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const std::filesystem::path& path, SafetensorsHeader& header) : path_(path), header_(header) {}

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        break;
      case Place::kRoot:
        place_ = entry_.name == kMetadataKey ? Place::kMetadata : Place::kTensor;
        keys_.clear();
        break;
      default:
        refuse("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (!keys_.contains(field)) {
          fail(where() + ": " + field + " is missing");
        }
      }
      header_.tensors.push_back(std::move(entry_));
    }
    place_ = Place::kRoot;
    return true;
  }

  bool key(std::string& key) override {
    if (place_ == Place::kRoot) {
      entry_ = TensorEntry();
      entry_.name = key;
      if (!names_.insert(key).second) {
        fail(where() + " is given twice");
      }
      return true;
    }
    if (!keys_.insert(key).second) {
      fail(where() + ": " + quote(key) + " is given twice");
    }
    if (place_ == Place::kTensor && key != "dtype" && key != "shape" && key != "data_offsets") {
      fail(where() + ": unknown field " + quote(key) + ", expected dtype, shape and data_offsets");
    }
    key_ = key;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || key_ == "dtype") {
      refuse("an array");
    }
    place_ = Place::kList;
    list_.clear();
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    if (key_ == "shape") {
      entry_.shape = list_;
      return true;
    }
    if (list_.size() != 2) {
      fail(where() + ": data_offsets: expected 2 numbers, found " + std::to_string(list_.size()));
    }
    entry_.begin = static_cast<uint64_t>(list_[0]);
    entry_.end = static_cast<uint64_t>(list_[1]);
    if (entry_.begin > entry_.end) {
      fail(
          where() + ": data_offsets: begin " + std::to_string(entry_.begin) + " is beyond end " +
          std::to_string(entry_.end));
    }
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::kList || value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      refuse(std::to_string(value));
    }
    if (list_.size() == kMaxDimensions) {
      fail(where() + ": " + key_ + ": more than " + std::to_string(kMaxDimensions) + " numbers");
    }
    list_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace(key_, value);
    } else if (place_ == Place::kTensor && key_ == "dtype") {
      const auto dtype = dtype_from_name(value);
      if (!dtype) {
        fail(where() + ": dtype " + quote(value) + " is not supported; supported are " + supported_dtypes());
      }
      entry_.dtype = *dtype;
    } else {
      refuse("the string " + quote(value));
    }
    return true;
  }

  bool null() override {
    return refuse("null");
  }
  bool boolean(bool value) override {
    return refuse(value ? "true" : "false");
  }
  bool number_integer(int64_t value) override {
    return refuse(std::to_string(value));
  }
  bool number_float(double, const std::string& text) override {
    return refuse(shortened(text, 40));
  }
  bool binary(nlohmann::json::binary_t&) override {
    return refuse("binary data");
  }

  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) override {
    fail("header is not valid JSON: " + json_reason(error));
  }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kList };

  static std::string supported_dtypes() {
    std::string names;
    for (const auto& [name, dtype] : kDtypes) {
      names += (names.empty() ? "" : ", ") + std::string(name);
    }
    return names;
  }

  std::string where() const {
    return entry_.name == kMetadataKey ? std::string(kMetadataKey) : "tensor " + quote(entry_.name);
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError(path_, what);
  }

  /// Throws for a value that may not stand where it was found; returns only in name.
  [[noreturn]] bool refuse(const std::string& found) const {
    switch (place_) {
      case Place::kStart:
        fail("header: expected an object, found " + found);
      case Place::kRoot:
        fail(where() + ": expected an object, found " + found);
      case Place::kMetadata:
        fail(where() + ": " + quote(key_) + ": expected a string, found " + found);
      case Place::kTensor:
        fail(where() + ": " + key_ + ": expected " + (key_ == "dtype" ? "a string" : "an array") + ", found " + found);
      default:
        fail(where() + ": " + key_ + ": expected integers from 0 to 2^63-1, found " + found);
    }
  }

  const std::filesystem::path& path_;
  SafetensorsHeader& header_;
  Place place_ = Place::kStart;
  TensorEntry entry_;
  std::string key_;
  std::vector<int64_t> list_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> keys_;
};

/// The bytes that shape and dtype need. A shape whose strides would overflow is refused even if a dimension is 0.
uint64_t byte_size(const std::filesystem::path& path, const TensorEntry& entry) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(entry.dtype));
  bool empty = false;
  for (const int64_t size : entry.shape) {
    empty = empty || size == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes)) {
      throw FormatError(path, "tensor " + quote(entry.name) + ": shape overflows 63 bits");
    }
  }
  return empty ? 0 : static_cast<uint64_t>(bytes);
}

/// The tensors, sorted by offset, must cover the data from its first byte to its last, each byte once.
void check_layout(const std::filesystem::path& path, const std::vector<TensorEntry>& tensors, uint64_t data_bytes) {
  uint64_t covered = 0;
  const TensorEntry* previous = nullptr;
  for (const TensorEntry& entry : tensors) {
    const std::string where = "tensor " + quote(entry.name) + ": ";
    if (entry.end > data_bytes) {
      throw FormatError(
          path,
          where + "data ends at byte " + std::to_string(entry.end) + ", but the file holds " +
              std::to_string(data_bytes) + " bytes of data");
    }
    const uint64_t expected = byte_size(path, entry);
    if (entry.end - entry.begin != expected) {
      throw FormatError(
          path,
          where + "dtype and shape need " + std::to_string(expected) + " bytes, data_offsets give " +
              std::to_string(entry.end - entry.begin));
    }
    if (entry.begin < covered) {
      throw FormatError(
          path,
          where + "data starts at byte " + std::to_string(entry.begin) + " and overlaps tensor " +
              quote(previous->name) + ", which ends at byte " + std::to_string(covered));
    }
    if (entry.begin > covered) {
      throw FormatError(
          path,
          where + "data starts at byte " + std::to_string(entry.begin) + " and leaves a hole after byte " +
              std::to_string(covered));
    }
    covered = entry.end;
    previous = &entry;
  }
  if (covered != data_bytes) {
    throw FormatError(
        path,
        "the tensors end at byte " + std::to_string(covered) + " of the data, but the file holds " +
            std::to_string(data_bytes) + " bytes of data");
  }
}

} // namespace

std::optional<at::ScalarType> dtype_from_name(std::string_view name) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& pair) { return pair.first == name; });
  return found == kDtypes.end() ? std::nullopt : std::optional(found->second);
}

std::string_view dtype_name(at::ScalarType dtype) {
  const auto found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& pair) { return pair.second == dtype; });
  return found == kDtypes.end() ? std::string_view() : found->first;
}

SafetensorsHeader parse_safetensors_header(
    const std::filesystem::path& path, std::string_view text, uint64_t data_bytes) {
  if (text.empty() || text.front() != '{') {
    throw FormatError(path, "header: expected an object that starts with '{' at byte 8");
  }
  // The parser takes a zero byte for the end and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw FormatError(path, "header is not valid JSON: zero byte at offset " + std::to_string(zero));
  }
  SafetensorsHeader header;
  HeaderReader reader(path, header);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  // Stable: tensors without data keep the header's order.
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  check_layout(path, header.tensors, data_bytes);
  return header;
}

} // namespace rora::detail
