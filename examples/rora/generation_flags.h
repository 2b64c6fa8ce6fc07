#pragma once

#include "flags.h"
#include "model_flags.h"

#include <rora/model/generation.h>

namespace rora::cli {

/// How a model goes on from a text.
struct GenerationFlags {
  int64_t max_new_tokens = 128;
  double temperature = 0.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  int64_t beams = 1;
  int64_t seed = 0;

  void add_max_new_tokens(Flags& flags);
  void add_beams(Flags& flags);
  /// Temperature, top-k, top-p and seed.
  void add_sampling(Flags& flags);

  /// Throws `UsageError` for flags that contradict each other.
  GenerationOptions options(const ModelFlags& model, const Tokenizer& tokenizer) const;
};

/// One more token that generation stops at, if there is one.
void add_stop(GenerationOptions& options, std::optional<int64_t> id);

/// The text of `ids` without special tokens; ids that no token has are passed over.
std::string generated_text(const Tokenizer& tokenizer, std::vector<int64_t> ids);

/// Writes text to stdout as its tokens come. A character is written once all its bytes are there.
class TextStream {
 public:
  /// The text of `context` stands before it and is not written.
  explicit TextStream(const Tokenizer& tokenizer, std::vector<int64_t> context = {});

  void add(const std::vector<int64_t>& ids);

  /// Writes what was held back.
  void finish();

 private:
  void write(std::string_view text);

  const Tokenizer& tokenizer_;
  std::vector<int64_t> ids_;
  size_t written_; // bytes of the text of `ids_`
};

} // namespace rora::cli
