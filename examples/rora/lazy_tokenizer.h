#pragma once

#include <rora/text/tokenizer.h>

#include <functional>
#include <memory>
#include <utility>

namespace rora::cli {

/// A tokenizer that is loaded when it is first asked for: data that is tokenised already needs none.
class LazyTokenizer {
 public:
  explicit LazyTokenizer(std::function<std::unique_ptr<Tokenizer>()> load) : load_(std::move(load)) {}

  const Tokenizer* get() {
    if (tokenizer_ == nullptr) {
      tokenizer_ = load_();
    }
    return tokenizer_.get();
  }

  /// Null where nobody has asked for it.
  const Tokenizer* loaded() const {
    return tokenizer_.get();
  }

 private:
  std::function<std::unique_ptr<Tokenizer>()> load_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

} // namespace rora::cli
