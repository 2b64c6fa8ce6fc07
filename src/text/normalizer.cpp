#include "text/normalizer.h"

#include "checkpoint/quote.h"
#include "text/canonical_composition.h"
#include "text/limits.h"
#include "text/pattern.h"

#include <algorithm>
#include <vector>

namespace rora::detail {

namespace {

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(const JsonField& field) : Normalizer(field) {
    field.allow_only({"type", "prepend"});
    prefix_ = field["prepend"].string();
  }
  std::string apply(std::string text, size_t original) const override {
    if (!text.empty()) {
      check_growth(place(), prefix_.size() + text.size(), original);
      text.insert(0, prefix_);
    }
    return text;
  }
  bool keeps_start() const override {
    return false;
  }

 private:
  std::string prefix_;
};

class ReplaceNormalizer : public Normalizer {
 public:
  explicit ReplaceNormalizer(const JsonField& field)
      : Normalizer(field), pattern_(Pattern::from_json(field["pattern"])) {
    field.allow_only({"type", "pattern", "content"});
    content_ = field["content"].string();
    if (pattern_.matches_empty()) {
      field["pattern"].fail("a pattern that matches the empty string is not supported");
    }
  }
  std::string apply(std::string text, size_t original) const override {
    std::string replaced;
    replaced.reserve(text.size());
    for (const Span& span : pattern_.find(text)) {
      replaced +=
          span.matched ? std::string_view(content_) : std::string_view(text).substr(span.begin, span.end - span.begin);
      check_growth(place(), replaced.size(), original);
    }
    return replaced;
  }
  bool keeps_start() const override {
    return !content_.empty();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class NfcNormalizer : public Normalizer {
 public:
  explicit NfcNormalizer(const JsonField& field) : Normalizer(field) {
    field.allow_only({"type"});
  }
  std::string apply(std::string text, size_t /*original*/) const override {
    return to_nfc(text);
  }
  bool keeps_start() const override {
    return false; // marks that a text begins with may change places
  }
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(const JsonField& field) : Normalizer(field) {
    field.allow_only({"type", "normalizers"});
    for (const JsonField& element : field["normalizers"].elements()) {
      element.object();
      normalizers_.push_back(normalizer_from_json(element));
    }
  }
  std::string apply(std::string text, size_t original) const override {
    for (const auto& normalizer : normalizers_) {
      text = normalizer->apply(std::move(text), original);
    }
    return text;
  }
  bool keeps_start() const override {
    return std::all_of(normalizers_.begin(), normalizers_.end(), [](const auto& each) { return each->keeps_start(); });
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> normalizers_;
};

} // namespace

std::unique_ptr<Normalizer> normalizer_from_json(const JsonField& field) {
  if (field.is_null()) {
    return nullptr;
  }
  const std::string type = field["type"].string();
  if (type == "Sequence") {
    return std::make_unique<NormalizerSequence>(field);
  }
  if (type == "Prepend") {
    return std::make_unique<PrependNormalizer>(field);
  }
  if (type == "Replace") {
    return std::make_unique<ReplaceNormalizer>(field);
  }
  if (type == "NFC") {
    return std::make_unique<NfcNormalizer>(field);
  }
  field["type"].fail("expected Sequence, Prepend, Replace or NFC, found " + quote(type));
}

} // namespace rora::detail
