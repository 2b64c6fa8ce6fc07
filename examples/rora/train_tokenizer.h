#pragma once

#include <rora/data/dataset.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rora::cli {

/// Trains a sentencepiece model with byte pair encoding and byte fallback, and LLaMA's special tokens: <unk> 0, <s> 1,
/// </s> 2. Reads the texts of the files' records, prompt and completion of those that have them, and returns the
/// content of tokenizer.model, which follows from the files and `vocab_size` alone. Throws `c10::ValueError`
/// where the texts do not give so many pieces.
std::string train_tokenizer(const std::vector<RecordFile>& files, int64_t vocab_size);

} // namespace rora::cli
