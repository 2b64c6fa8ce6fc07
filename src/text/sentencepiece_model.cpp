#include "text/sentencepiece_model.h"

#include "checkpoint/quote.h"
#include "text/charsmap.h"
#include "text/protobuf.h"
#include "text/utf8.h"

#include <rora/error.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace rora::detail {

namespace {

// The fields of sentencepiece's ModelProto, and of what it holds.
constexpr uint32_t kPieces = 1;
constexpr uint32_t kTrainerSpec = 2;
constexpr uint32_t kNormalizerSpec = 3;
constexpr uint32_t kDenormalizerSpec = 5;
constexpr uint32_t kPieceText = 1;
constexpr uint32_t kPieceScore = 2;
constexpr uint32_t kPieceType = 3;
constexpr uint32_t kCharsmap = 2;
constexpr int32_t kUserDefined = 4;

constexpr size_t kMaxPieceBytes = 1024; // each place of a text takes time in proportion
constexpr size_t kMaxAlike = 64; // for so many user-defined symbols that begin at one place there is room

class ModelCheck {
 public:
  explicit ModelCheck(const std::filesystem::path& path) : path_(path) {}

  void check(std::string_view message) {
    bool has_trainer = false;
    bool has_normalizer = false;
    // A file that is cut off between two pieces is a whole message too, without the specifications that follow them.
    each_field(message, [&](const ProtobufField& field) {
      if (field.type != ProtobufField::kBytes) {
        not_whole();
      }
      has_trainer = has_trainer || field.number == kTrainerSpec;
      has_normalizer = has_normalizer || field.number == kNormalizerSpec;
      if (field.number == kPieces) {
        check_piece(field.bytes);
      } else if (field.number == kNormalizerSpec) { // messages that follow one another are merged: each is looked at
        check_normalizer(field.bytes, "normalizer_spec");
      } else if (field.number == kDenormalizerSpec) {
        check_normalizer(field.bytes, "denormalizer_spec");
      }
    });
    if (!has_trainer || !has_normalizer) {
      not_whole();
    }
    check_user_defined();
  }

 private:
  [[noreturn]] void not_whole() const {
    throw FormatError(path_, "not a whole sentencepiece model");
  }

  template <typename Visit>
  void each_field(std::string_view message, Visit visit) const {
    while (!message.empty()) {
      const std::optional<ProtobufField> field = take_protobuf_field(message);
      if (!field) {
        not_whole();
      }
      visit(*field);
    }
  }

  void check_piece(std::string_view message) {
    std::string_view piece;
    int32_t type = 0;
    float score = 0;
    each_field(message, [&](const ProtobufField& field) {
      if (field.is(kPieceText, ProtobufField::kBytes)) {
        piece = field.bytes;
      } else if (field.is(kPieceScore, ProtobufField::kFixed32)) {
        std::memcpy(&score, field.bytes.data(), sizeof(score));
      } else if (field.is(kPieceType, ProtobufField::kVarint)) {
        type = static_cast<int32_t>(field.value);
      }
    });
    const auto fail = [&](const char* what) {
      throw FormatError(path_, "piece " + std::to_string(pieces_) + ", " + quote(piece) + ", " + what);
    };
    if (piece.size() > kMaxPieceBytes) {
      fail("is longer than 1024 bytes");
    }
    if (piece.find('\0') != std::string_view::npos || to_valid_utf8(piece) != piece) {
      fail("is not UTF-8 without zero bytes");
    }
    if (std::isnan(score)) {
      fail("has a score that is no number");
    }
    if (type == kUserDefined) {
      user_defined_.push_back(piece);
    }
    ++pieces_;
  }

  void check_normalizer(std::string_view message, const char* name) const {
    each_field(message, [&](const ProtobufField& field) {
      if (field.is(kCharsmap, ProtobufField::kBytes) && !field.bytes.empty()) {
        try {
          check_charsmap(field.bytes);
        } catch (const c10::ValueError& error) {
          throw FormatError(
              path_, std::string(name) + ".precompiled_charsmap is malformed: " + error.what_without_backtrace());
        }
      }
    });
  }

  void check_user_defined() {
    std::sort(user_defined_.begin(), user_defined_.end());
    std::vector<std::string_view> alike; // each begins with the one before it
    for (const std::string_view piece : user_defined_) {
      while (!alike.empty() && !piece.starts_with(alike.back())) {
        alike.pop_back();
      }
      alike.push_back(piece);
      if (alike.size() > kMaxAlike) {
        throw FormatError(path_, "more than 64 user-defined pieces begin like " + quote(piece));
      }
    }
  }

  const std::filesystem::path& path_;
  size_t pieces_ = 0;
  std::vector<std::string_view> user_defined_;
};

} // namespace

void check_sentencepiece_model(const std::filesystem::path& path, std::string_view content) {
  ModelCheck(path).check(content);
}

} // namespace rora::detail
