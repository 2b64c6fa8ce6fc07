#pragma once

#include "data/byte_tokenizer.h"
#include "data/data_file.h"

#include <rora/data/dataset.h>
#include <rora/error.h>

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace rora::testing {

inline Dataset load(std::string_view content, const Tokenizer* tokenizer, const DatasetOptions& options = {}) {
  return load_dataset({DataFile(content).path()}, tokenizer, options);
}

inline std::string refusal(std::string_view content, const Tokenizer* tokenizer, const DatasetOptions& options = {}) {
  const DataFile file(content);
  return file.message_of<FormatError>([&] { load_dataset({file.path()}, tokenizer, options); });
}

/// The text of an example with its labelled runs in brackets.
inline std::string marked(const Example& example, const Tokenizer& tokenizer) {
  std::string text;
  bool open = false;
  for (size_t i = 0; i < example.input_ids.size(); ++i) {
    const bool labelled = example.labels[i] != kIgnoreIndex;
    if (labelled) {
      EXPECT_EQ(example.labels[i], example.input_ids[i]) << "at " << i;
    }
    text += labelled == open ? "" : labelled ? "[" : "]";
    open = labelled;
    text += tokenizer.decode(example.input_ids[i]);
  }
  return text + (open ? "]" : "");
}

inline std::string marked_only(
    std::string_view content, const Tokenizer& tokenizer, const DatasetOptions& options = {}) {
  const Dataset dataset = load(content, &tokenizer, options);
  EXPECT_EQ(dataset.size(), 1);
  return marked(dataset.examples.at(0), tokenizer);
}

} // namespace rora::testing
