#include "text/decoder.h"

#include "checkpoint/quote.h"
#include "text/byte_fallback.h"
#include "text/byte_level.h"
#include "text/json_field.h"
#include "text/limits.h"
#include "text/metaspace.h"
#include "text/pattern.h"
#include "text/utf8.h"

#include <numeric>
#include <optional>

namespace rora::detail {

namespace {

std::string join(const std::vector<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) {
    joined += part;
  }
  return joined;
}

size_t size_of(const std::vector<std::string>& parts) {
  return std::accumulate(
      parts.begin(), parts.end(), size_t{0}, [](size_t size, const std::string& part) { return size + part.size(); });
}

class DecoderSequence : public Decoder {
 public:
  explicit DecoderSequence(const JsonField& field) : place_(field.place()) {
    field.allow_only({"type", "decoders"});
    for (const JsonField& element : field["decoders"].elements()) {
      element.object();
      decoders_.push_back(decoder_from_json(element));
    }
  }
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    const size_t original = size_of(tokens);
    for (const auto& decoder : decoders_) {
      tokens = decoder->decode(std::move(tokens));
      check_growth(place_, size_of(tokens), original);
    }
    return tokens;
  }

 private:
  JsonPlace place_;
  std::vector<std::unique_ptr<Decoder>> decoders_;
};

class ReplaceDecoder : public Decoder {
 public:
  explicit ReplaceDecoder(const JsonField& field)
      : place_(field.place()), pattern_(Pattern::from_json(field["pattern"])) {
    field.allow_only({"type", "pattern", "content"});
    content_ = field["content"].string();
  }
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    const size_t original = size_of(tokens);
    size_t size = 0;
    for (std::string& token : tokens) {
      std::string replaced;
      for (const Span& span : pattern_.find(token)) {
        replaced += span.matched ? content_ : token.substr(span.begin, span.end - span.begin);
        check_growth(place_, size + replaced.size(), original);
      }
      size += replaced.size();
      token = std::move(replaced);
    }
    return tokens;
  }

 private:
  JsonPlace place_;
  Pattern pattern_;
  std::string content_;
};

class ByteFallbackDecoder : public Decoder {
 public:
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    std::vector<std::string> parts;
    std::string bytes;
    const auto flush = [&] {
      // One byte that fits into no character spoils the whole run, as in the library that defines the format.
      if (to_valid_utf8(bytes) == bytes) {
        parts.push_back(bytes);
      } else {
        parts.insert(parts.end(), bytes.size(), kReplacementCharacter);
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const std::optional<unsigned char> byte = byte_of_token(token)) {
        bytes += static_cast<char>(*byte);
        continue;
      }
      if (!bytes.empty()) {
        flush();
      }
      parts.push_back(std::move(token));
    }
    if (!bytes.empty()) {
      flush();
    }
    return parts;
  }
};

class FuseDecoder : public Decoder {
 public:
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    return {join(tokens)};
  }
};

class StripDecoder : public Decoder {
 public:
  explicit StripDecoder(const JsonField& field) {
    field.allow_only({"type", "content", "start", "stop"});
    content_ = field["content"].string();
    if (content_.empty() || content_.size() != character_length(content_, 0)) {
      field["content"].fail("expected one character, found " + quote(content_));
    }
    start_ = count(field["start"]);
    stop_ = count(field["stop"]);
  }
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (int64_t cut = 0; cut < start_ && rest.starts_with(content_); ++cut) {
        rest.remove_prefix(content_.size());
      }
      for (int64_t cut = 0; cut < stop_ && rest.ends_with(content_); ++cut) {
        rest.remove_suffix(content_.size());
      }
      token = std::string(rest);
    }
    return tokens;
  }

 private:
  static int64_t count(const JsonField& field) {
    if (field.integer() < 0) {
      field.fail("expected no negative number, found " + std::to_string(field.integer()));
    }
    return field.integer();
  }

  std::string content_;
  int64_t start_;
  int64_t stop_;
};

class ByteLevelDecoder : public Decoder {
 public:
  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) {
      bytes += from_byte_level(token).value_or(token);
    }
    return {to_valid_utf8(bytes)};
  }
};

class MetaspaceDecoder : public Decoder {
 public:
  explicit MetaspaceDecoder(const JsonField& field)
      : metaspace_(field), replacement_(Pattern::literal(metaspace_.replacement)) {}

  std::vector<std::string> decode(std::vector<std::string> tokens) const override {
    // The first token loses all its signs, not the prepended one alone, as in the library that defines the format.
    std::string_view space = metaspace_.prepend_scheme == PrependScheme::kNever ? " " : "";
    for (std::string& token : tokens) {
      std::string text;
      for (const Span& span : replacement_.find(token)) {
        text += span.matched ? space : std::string_view(token).substr(span.begin, span.end - span.begin);
      }
      token = std::move(text);
      space = " ";
    }
    return tokens;
  }

 private:
  Metaspace metaspace_;
  Pattern replacement_;
};

} // namespace

std::unique_ptr<Decoder> decoder_from_json(const JsonField& field) {
  if (field.is_null()) {
    return nullptr;
  }
  const std::string type = field["type"].string();
  if (type == "Sequence") {
    return std::make_unique<DecoderSequence>(field);
  }
  if (type == "Replace") {
    return std::make_unique<ReplaceDecoder>(field);
  }
  if (type == "ByteFallback") {
    field.allow_only({"type"});
    return std::make_unique<ByteFallbackDecoder>();
  }
  if (type == "Fuse") {
    field.allow_only({"type"});
    return std::make_unique<FuseDecoder>();
  }
  if (type == "Strip") {
    return std::make_unique<StripDecoder>(field);
  }
  if (type == "ByteLevel") {
    field.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"}); // none of them changes decoding
    return std::make_unique<ByteLevelDecoder>();
  }
  if (type == "Metaspace") {
    return std::make_unique<MetaspaceDecoder>(field);
  }
  field["type"].fail(
      "expected Sequence, Replace, ByteFallback, Fuse, Strip, ByteLevel or Metaspace, found " + quote(type));
}

} // namespace rora::detail
